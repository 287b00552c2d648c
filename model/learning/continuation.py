"""Continue a finished run on other data: its weights, its normalisation, a grown vocabulary."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.data.dataset import Dataset
from model.data.growth import ABSENT, earlier_tokens, read_schema
from model.data.lists import Lists
from model.learning import checkpoint, drift
from model.learning.checkpoint import CheckpointError
from model.learning.distributed import rank
from model.learning.state import DONE, RunState
from model.network.config import Config
from model.network.evaluator import Evaluator
from model.network.generator import Generator
from service.engine.contract import Integers
from service.engine.features.layout import Layout
from service.engine.features.schema import Schema
from service.engine.features.schema_rules import SchemaError

EPOCHS_SHARE = 4  # the first run that continues another makes a quarter of its epochs
NOISE = 0.02  # deviation of new rows of the token table from that of an unknown value
TABLE, POSITIONS = "embed.table.weight", "evaluator.position.weight"


def continued_config(state: RunState) -> Config:
    """Return the configuration of a run that continues one: a quarter of the epochs, at least one.

    A run that itself continues another has few epochs already, and its successor as many: a chain
    of retrainings does not shrink to one epoch.
    """
    config = state.config
    if state.continued_from is not None:
        return config
    stages: dict[str, Any] = {}
    for name in config.stages:
        stage = getattr(config, name)
        stages[name] = dataclasses.replace(stage, epochs=math.ceil(stage.epochs / EPOCHS_SHARE))
    return dataclasses.replace(config, **stages)


def open_data(data: Path, directory: Path, start: Path | None) -> tuple[Dataset, int]:
    """Open a data set by the schema of the run that is continued, if there is one.

    Args:
        directory: of the run; if it holds a run that continues another, its own schema counts.
        start: finished run to continue.

    Returns the data set, and the number of positions that its evaluator must have at least.
    Raises CheckpointError where `directory` holds a run that does not continue `start`.
    """
    source = start
    if (directory / checkpoint.CHECKPOINT).exists():
        origin = checkpoint.read_state(directory).continued_from
        if start is not None and (
            origin is None or Path(origin["run"]).resolve() != start.resolve()
        ):
            before = "no other run" if origin is None else origin["run"]
            raise CheckpointError(
                f"{directory}: holds a run that continues {before}, not {start}; choose another "
                "--out or remove the directory"
            )
        source = None if origin is None else directory
    if source is None:
        return Dataset(data), 0
    try:
        return Dataset(data, earlier=read_schema(source)), checkpoint.read_state(source).positions
    except SchemaError as error:
        raise CheckpointError(
            f"{data}: has another schema than {source}: {error}; prepare the data with the schema "
            "of the checkpoint, or train without --from"
        ) from error


def take_over(
    start: Path,
    state: RunState,
    schema: Schema,
    lists: Lists,
    generator: Generator,
    evaluator: Evaluator,
) -> None:
    """Restore the networks of a finished run, and note its origin and the drift in the state.

    Args:
        schema: grown schema of the data set.
        lists: train lists, whose features are compared with those that the run learned from.

    Raises CheckpointError for an unfinished run or one of another shape.
    """
    earlier, tensors = checkpoint.read(start)
    if earlier.stage != DONE:
        raise CheckpointError(
            f"{start}: training stopped in stage {earlier.stage!r}; run its train command again "
            "to finish it, then continue from it"
        )
    _refuse_other_shape(start, earlier.config, state.config)
    before = read_schema(start)
    tokens = earlier_tokens(schema, before)
    for network in ("generator", "evaluator"):
        name = f"{network}.{TABLE}"
        tensors[name] = grown_table(tensors[name], tokens, schema)
    positions = tensors[POSITIONS]
    # A longer list has the embedding of the last position at the places that are new.
    longer = positions[-1:].expand(state.positions - len(positions), -1)
    tensors[POSITIONS] = torch.cat([positions, longer])
    checkpoint.restore(generator, tensors, "generator.")
    checkpoint.restore(evaluator, tensors, "evaluator.")
    state.continued_from = {
        "run": start.as_posix(),
        "data": earlier.data,
        "data_digest": earlier.data_digest,
        "commit": earlier.commit,
    }
    state.drift = _measure_drift(start, earlier, before, lists, tokens)


def _refuse_other_shape(start: Path, earlier: Config, config: Config) -> None:
    """Raise CheckpointError that names a field which shapes the networks, and differs."""
    for path in ("network", "evaluator_network", "slate_length", "reasoning.budget"):
        value, expected = config, earlier
        for name in path.split("."):
            value, expected = getattr(value, name), getattr(expected, name)
        if value != expected:
            raise CheckpointError(
                f"{start}: --from needs a configuration with {path} {expected}, got {value}"
            )


def grown_table(table: Tensor, tokens: Integers, schema: Schema) -> Tensor:
    """Return the table [V, D] of a grown schema: old rows by value, new ones near unknown values.

    Args:
        table: token embeddings of the earlier schema.
        tokens: earlier token of each token, from growth.earlier_tokens.
    """
    places, layout = torch.from_numpy(tokens), Layout(schema)
    grown = table[places.clamp(min=0)]
    for feature in schema.features:
        if not feature.slots:
            continue
        unknown = layout.first_token[feature.name]
        rows = torch.arange(unknown + 1, unknown + 1 + feature.values)
        new = rows[places[rows] == ABSENT]
        grown[new] = grown[unknown] + NOISE * torch.randn(len(new), table.shape[1])
    return grown


def _measure_drift(
    start: Path, earlier: RunState, schema: Schema, lists: Lists, tokens: Integers
) -> dict[str, float] | None:
    """Return the PSI of each feature, and print it; None if the earlier rows are gone."""
    before = drift.load(start) or _count_again(earlier, schema)
    if before is None:
        lines = [
            f"{start}: no {drift.FILE}, and {earlier.data} is not its data; drift is not measured"
        ]
        indices = None
    else:
        indices = drift.measure_drift(before, drift.count_rows(lists, schema, before, tokens))
        lines = drift.drift_table(indices)
    if not rank():
        print(*lines, sep="\n", file=sys.stderr)
    return indices


def _count_again(earlier: RunState, schema: Schema) -> drift.Distributions | None:
    """Return the distributions of a run that recorded none, if its data set is still there."""
    data = Path(earlier.data)
    if not (data / "schema.yaml").exists():
        return None
    dataset = Dataset(data, earlier=schema)
    if dataset.digest() != earlier.data_digest:
        return None
    return drift.count_rows(dataset.lists(["train"], earlier.config.train_lists), schema)
