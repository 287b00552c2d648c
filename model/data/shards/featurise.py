"""Featurise the shards of a data set ahead of training, in processes or on Ray."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from model.data.dataset import Dataset
from model.data.growth import read_schema
from model.data.shards.engines import open_engine
from model.data.shards.options import ShardOptions
from model.data.shards.stages import run_calls
from service.engine.features.featuriser import Featuriser


def featurise(
    data: Path, splits: Sequence[str], options: ShardOptions, start: Path | None = None
) -> int:
    """Write the arrays of splits beside a data set, unless they are there; return their lists.

    A data set in one file is featurised in this process.

    Args:
        start: finished run that the training continues; its schema grows.

    Raises Interruption if a task cannot end, SchemaError if the run has another schema.
    """
    dataset = Dataset(data, memory=0, earlier=None if start is None else read_schema(start))
    if not dataset.shards:
        return sum(len(dataset.lists([split])) for split in splits)
    fitted = dataset.arrays / "featuriser"
    shutil.rmtree(fitted, ignore_errors=True)
    fitted.mkdir(parents=True)
    dataset.featuriser.save(fitted)
    tasks = [
        (data, fitted, dataset.digest(), split, number, start is not None)
        for split in splits
        for number, shard in enumerate(dataset.shards)
        if split in shard.splits
    ]
    with open_engine(options) as engine:
        counts = run_calls(engine, "featurise", data, featurise_shard, tasks, 0, len(tasks))
        total = sum(count for _, count in counts)
    shutil.rmtree(fitted)
    return total


def featurise_shard(
    data: Path, fitted: Path, digest: str, split: str, shard: int, grown: bool
) -> int:
    """Write the arrays of one split of one shard, and return the number of its lists.

    Args:
        fitted: directory of the fitted featuriser.
        digest: of the data set.
        grown: the schema of the featuriser continues that of a run.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # where its progress would be printed
        lists = _open(data, fitted, digest, grown).lists([split], shards=range(shard, shard + 1))
    return len(lists)


@lru_cache(maxsize=1)
def _open(data: Path, fitted: Path, _digest: str, grown: bool) -> Dataset:
    """Return the data set; a worker opens it once for all of its tasks."""
    featuriser = Featuriser.load(fitted)
    earlier = featuriser.schema if grown else None  # for the names of the arrays
    return Dataset(data, memory=0, earlier=earlier, featuriser=featuriser)
