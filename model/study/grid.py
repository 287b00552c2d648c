"""Cells of the quality report: each model of a study trained, ranked and cached in one file.

The cells of a study share the data set in memory and the evaluator, and run one after another in
one process. Test labels are read once per finished model, to compute its metrics; they select
nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.data.metrics import slate_metrics
from model.learning import checkpoint
from model.learning.checkpoint import Trained
from model.learning.state import current_commit
from model.learning.train import train as train_run
from model.network.config import Config
from model.study import baselines, neural_baselines
from model.study.pool import run_waves
from model.study.slates import rank_greedily, utilities
from model.study.variants import BASELINES, NEURAL, Study, with_overrides

Array = np.ndarray[Any, Any]
FIRST = next(iter(NEURAL))  # the model that trains the evaluator of a study
STUDY = "study.json"  # configuration and data digest of a directory's cells


def fill(config: Config, studies: list[Study], cache: Path) -> None:
    """Fill every cell that the cache lacks, one study per core."""
    run_waves([("studies", [functools.partial(fill_study, config, s, cache) for s in studies])])


def fill_study(config: Config, study: Study, cache: Path) -> None:
    """Fill the missing cells of one study, one after another.

    Raises CheckpointError if the existing cells have another configuration or other data.
    """
    torch.set_num_threads(1)
    directory = study.directory(cache)
    directory.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, seed=study.seed)
    dataset = Dataset(study.data)
    record_setting(directory, config, dataset)
    pending = [m for m in study.models if not (directory / f"{m}.npz").exists()]
    if not pending:
        return
    runner = CellRunner(config, study, directory, dataset)
    for model in pending:
        began = time.process_time()
        cell = {**runner.run(model), "commit": np.array(current_commit())}
        # Of this process, so that neighbours on the core do not count.
        cell["cpu_seconds"] = np.array(time.process_time() - began)
        save(directory / f"{model}.npz", cell)


def record_setting(directory: Path, config: Config, dataset: Dataset) -> None:
    """Write the configuration and data digest of a directory's cells, or check those written."""
    path, digest = directory / STUDY, dataset.digest()
    if path.exists():
        check_setting(directory, config, digest)
        return
    description = {"config": config.to_json(), "data_digest": digest}
    path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def check_setting(directory: Path, config: Config, digest: str | None = None) -> None:
    """Raise CheckpointError if a directory's cells have another configuration or other data.

    A configuration field added since then counts as its default.
    """
    path = directory / STUDY
    if not path.exists():
        return
    recorded = json.loads(path.read_text(encoding="utf-8"))
    matches = Config.from_json(recorded["config"]) == config
    if not matches or digest not in (None, recorded["data_digest"]):
        raise checkpoint.CheckpointError(
            f"{path}: the cells beside it have another configuration or other data than this run; "
            "remove them or choose another --cache"
        )


class CellRunner:
    """Runs the cells of one study, which share data set, lists and evaluator."""

    def __init__(self, config: Config, study: Study, directory: Path, dataset: Dataset) -> None:
        self.config, self.study, self.directory, self.dataset = config, study, directory, dataset
        self.test = self._lists("test")

    def _lists(self, split: str) -> Lists:
        return self.dataset.lists([split], self.config.train_lists).rankable()

    def run(self, model: str) -> dict[str, Array]:
        """Return per-list metrics [R], slates and, of a network, its entropies and validation."""
        extra: dict[str, Array] = {}
        if model in BASELINES:
            slate = self.rankers()[model]()
        else:
            slate, extra = rank_greedily(self.train(model), self.test)
        return {**self.metrics(slate), **extra, "slate": slate.astype(np.int16)}

    def train(self, model: str) -> Trained:
        """Train one model, or finish its training; the first of a study trains the evaluator."""
        start = None if model == FIRST else self.directory / FIRST
        if start is not None and not (start / checkpoint.CHECKPOINT).exists():
            self.train(FIRST)
        variant = with_overrides(self.config, NEURAL[model])
        train_run(variant, self.dataset, self.directory / model, start)
        return checkpoint.load(self.directory / model)

    def metrics(self, slate: Array) -> dict[str, Array]:
        """Return metrics and the evaluator's utility, each [R], of slates [R, K]."""
        metrics = slate_metrics(slate, self.test.labels, self.test.scale)
        evaluator = self.train(FIRST).evaluator
        return {**metrics, "utility": utilities(evaluator, self.test, slate)}

    def rankers(self) -> dict[str, Callable[[], Array]]:
        """Return, for each baseline, a function that ranks the test lists."""
        length, seed = self.config.slate_length, self.study.seed
        vocabulary = self.dataset.featuriser.vocabulary_size

        def fitted(fit: Callable[..., Array]) -> Callable[[], Array]:
            return lambda: fit(
                self._lists("train"), self._lists("valid"), self.test, length, seed, vocabulary
            )

        return {
            "random order": lambda: baselines.random_order(self.test, length, seed),
            "shown order": lambda: baselines.shown_order(self.test, length),
            "item like rate": lambda: baselines.item_like_rate(self.test, length, self.dataset),
            "item logit": lambda: baselines.item_logit(self.test, length, self.dataset, "test"),
            "LambdaMART": fitted(baselines.lambdamart),
            "NAR4Rec": fitted(neural_baselines.nar4rec),
            "Seq2Slate": fitted(neural_baselines.seq2slate),
        }


def save(path: Path, arrays: dict[str, Array]) -> None:
    """Write a cell atomically, so that an interruption leaves no partial file."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)


@functools.cache
def load(path: Path) -> dict[str, Array]:
    """Read a cell."""
    with np.load(path) as arrays:
        return dict(arrays)
