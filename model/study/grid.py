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
from model.study import baselines, first_stage, neural_baselines
from model.study.pool import run_waves
from model.study.slates import (
    best_of_sampled,
    rank_greedily,
    request_seconds,
    second_evaluator,
    utilities,
)
from model.study.variants import (
    BASELINES,
    CONTROLS,
    HOST,
    IDEAS,
    NEURAL,
    SLATES,
    Overrides,
    Study,
    with_overrides,
)

Array = np.ndarray[Any, Any]
STUDY = "study.json"  # configuration and data digest of a directory's cells


def fill(config: Config, studies: list[Study], cache: Path) -> None:
    """Fill every cell that the cache lacks, one study per core."""
    # A wave needs the results of the one before: first-stage scores, then runs to compare with.
    waves: list[list[Callable[[], object]]] = [[], [], []]
    origins = {}
    for study in studies:
        fill_one = functools.partial(fill_study, config, study, cache)
        origin = study.data.with_name(study.data.name.removesuffix("-first-stage"))
        if "best of M" in study.models and len(studies) > 1:
            waves[2].append(fill_one)
        elif origin == study.data:
            waves[0].append(fill_one)
        else:
            waves[1].append(fill_one)
            if not first_stage.is_made_from(study.data, origin):
                origins[study.data] = origin
    scores = [
        functools.partial(first_stage.first_stage, origin, data) for data, origin in origins.items()
    ]
    waves[0] = [*scores, *waves[0]]
    run_waves([("studies", wave) for wave in waves])


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
        if model == "best of M":
            return self.best_of_m()
        if model == "second evaluator":
            return self.second_utilities()
        began = time.monotonic()
        extra: dict[str, Array] = {}
        if model in BASELINES:
            slate = self.rankers()[model]()
        else:
            overrides = (NEURAL | CONTROLS | IDEAS)[model]
            slate, extra = rank_greedily(self.train(model, overrides), self.test)
        extra.setdefault("train_seconds", np.array(time.monotonic() - began))
        return {**self.metrics(slate), **extra, "slate": slate.astype(np.int16)}

    def train(self, model: str, overrides: Overrides) -> Trained:
        """Train one model, or finish its training; the first of a study trains the evaluator."""
        first = next(iter(NEURAL))
        start = None if model == first else self.directory / first
        if start is not None and not (start / checkpoint.CHECKPOINT).exists():
            self.train(first, NEURAL[first])
        variant = with_overrides(self.config, overrides)
        train_run(variant, self.dataset, self.directory / model, start)
        return checkpoint.load(self.directory / model)

    def metrics(self, slate: Array) -> dict[str, Array]:
        """Return metrics and the evaluator's utility, each [R], of slates [R, K]."""
        metrics = slate_metrics(slate, self.test.labels, self.test.scale)
        evaluator = self.train(*next(iter(NEURAL.items()))).evaluator
        return {**metrics, "utility": utilities(evaluator, self.test, slate)}

    def rankers(self) -> dict[str, Callable[[], Array]]:
        """Return, for each baseline, a function that ranks the test lists."""
        length, seed = self.config.slate_length, self.study.seed
        vocabulary = self.dataset.featuriser.vocabulary_size
        names = [feature.name for feature in self.dataset.featuriser.schema.features]
        score = self.dataset.featuriser.column("score") if "score" in names else None

        def fitted(fit: Callable[..., Array], **more: Any) -> Callable[[], Array]:
            return lambda: fit(
                self._lists("train"), self._lists("valid"), self.test, length, seed, vocabulary,
                **more,
            )  # fmt: skip

        return {
            "random order": lambda: baselines.random_order(self.test, length, seed),
            "shown order": lambda: baselines.shown_order(self.test, length),
            "item like rate": lambda: baselines.item_like_rate(self.test, length, self.dataset),
            "item logit": lambda: baselines.item_logit(self.test, length, self.dataset, "test"),
            "LambdaMART": fitted(baselines.lambdamart),
            "list-wise MLP": fitted(neural_baselines.listwise_mlp),
            "PRM": fitted(neural_baselines.prm, score_column=score),
            "NAR4Rec": fitted(neural_baselines.nar4rec),
            "Seq2Slate": fitted(neural_baselines.seq2slate, reinforce_epochs=0),
            "Seq2Slate REINFORCE": fitted(neural_baselines.seq2slate),
        }

    def second_utilities(self) -> dict[str, Array]:
        """Return the second evaluator's utility [R] of every other model's slates, by model."""
        directory = self.directory / "second evaluator"
        evaluator = second_evaluator(self.config, self.dataset, directory)
        slates = {
            m: load(self.directory / f"{m}.npz")["slate"]
            for m in self.study.models
            if m in BASELINES or m in NEURAL
        }
        return {m: utilities(evaluator, self.test, slate) for m, slate in slates.items()}

    def best_of_m(self) -> dict[str, Array]:
        """Sample M slates and keep the one of highest utility: metrics [S + 1, M, R].

        S = 0 is the plain host, the others are EGLR trained for three steps, with that budget.
        Times are seconds per request of one list, on one thread.
        """
        host = self.train("transformer host", HOST)
        eglr = self.train("transformer EGLR", {})
        columns: dict[str, list[list[Any]]] = {}
        for budget in range(eglr.config.reasoning.budget + 1):
            trained = eglr if budget else host
            rows: dict[str, list[Any]] = {}
            for slates in SLATES:
                torch.manual_seed(self.study.seed)
                slate = best_of_sampled(trained, host, self.test, budget, slates)
                metrics = slate_metrics(slate, self.test.labels, self.test.scale)
                metrics["utility"] = utilities(host.evaluator, self.test, slate)
                metrics["seconds"] = request_seconds(trained, host, self.test, budget, slates)
                for name, values in metrics.items():
                    rows.setdefault(name, []).append(values)
            for name, column in rows.items():
                columns.setdefault(name, []).append(column)
        return {name: np.array(values) for name, values in columns.items()}


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
