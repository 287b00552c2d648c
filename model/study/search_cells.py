"""Cells of the study of learning from search: a model with a seed, trained and ranked once.

A cell ranks the test lists behind several gates and keeps its figures for each list, so that an
interrupted command resumes and later ones add models and seeds. The cells of a seed share the
evaluator and the teacher's slates.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.learning import checkpoint
from model.learning.checkpoint import Trained
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy
from model.learning.state import current_commit
from model.learning.teacher import search
from model.learning.train import Run, train
from model.network.config import Config
from model.study.click_model import ClickModel, appeals_and_topics
from model.study.diversity_metrics import METRICS, Meter, candidate_values
from model.study.diversity_scores import sample
from model.study.grid import load, record_setting, save
from model.study.search_gates import NONE, Build, build_gates, decode_all, gate_names
from model.study.search_models import FULL, Source, is_host, overrides_of
from model.study.variants import with_overrides

Array = np.ndarray[Any, Any]
OF_SLATES = ("regret", "agreement", "steps", "entropy")
POSITIONAL = ("entropy before", "entropy after", "steps by position")
LISTS_AT_ONCE = 128
EVALUATOR = "evaluator"  # of a seed: its run and its cell, which holds only its seconds
TIMED, WARM_UPS = 10, 2  # lists of the milliseconds


def labels_of(source: Source) -> tuple[str, ...]:
    """Return the figures that do not depend on the evaluator."""
    return ("clicks",) if source.attribute is None else ("ndcg@10", "alpha-ndcg@10")


@dataclass
class Judge:
    """The held-out lists of a data set, and the figures of slates that do not need the evaluator.

    Args:
        lists: by split, rankable, at most as many as the source holds out.
    """

    source: Source
    dataset: Dataset
    lists: dict[str, Lists]

    @classmethod
    def of(cls, source: Source, config: Config) -> Judge:
        """Read the held-out lists of a source."""
        dataset = Dataset(source.data)
        lists = {
            split: sample(dataset.lists([split], config.train_lists).rankable(), source.held_out)
            for split in ("valid", "test")
        }
        return cls(source, dataset, lists)

    def __post_init__(self) -> None:
        test = self.lists["test"]
        self._meter: Meter | None = None
        self._best: Array | None = None
        if self.source.attribute is not None:
            values = candidate_values(self.dataset, test, "test", self.source.attribute)
            self._meter = Meter(test, values)
        else:
            appeal, topic = (v[test.rows] for v in appeals_and_topics(self.dataset, "test"))
            self._world = appeal, topic

    def measure(self, slate: Array) -> dict[str, Array]:
        """Return the figures [R] of `labels_of` for slates int64 [R, K] of the test lists.

        clicks: expected ones, as a share of those of the best slate.
        """
        if self._meter is not None:
            table = dict(zip(METRICS, self._meter.measure(slate), strict=True))
            return {name: table[name] for name in labels_of(self.source)}
        click_model = ClickModel()
        if self._best is None:
            _, self._best = click_model.best_slates(*self._world, slate.shape[1])
        return {"clicks": click_model.expected_clicks(*self._world, slate) / self._best}


@dataclass(frozen=True)
class Taught:
    """The teacher's slates int64 [R, K] of the test lists, with their objective [R]."""

    slate: torch.Tensor
    value: torch.Tensor


def fill_cell(
    source: Source, config: Config, name: str, directory: Path, judge: Judge
) -> dict[str, Array]:
    """Return the figures of one model and seed, from its file or by training it.

    Args:
        config: of the source, with the seed.
        directory: of the cells of this source and seed, with the evaluator's run.
    """
    path = directory / f"{name}.npz"
    if not path.exists():
        began = time.process_time()
        share_teacher(directory, name)
        variant = with_overrides(config, overrides_of(name))
        train(variant, judge.dataset, directory / name, directory / EVALUATOR)
        trained = checkpoint.load(directory / name)
        taught = read_teacher(trained, directory, judge.lists["test"])
        arrays = measure(trained, judge, taught, gate_names_of(name))
        arrays |= {
            "seconds": np.array(time.process_time() - began),
            "valid objective": np.array(trained.state.validation["final"]["objective"]),
            "commit": commit(),
        }
        save(path, arrays)
    return load(path)


def gate_names_of(name: str) -> list[str]:
    """Return the gates behind which a model ranks; a plain host has no steps to choose."""
    return [NONE] if is_host(name) else gate_names(name in FULL)


def share_teacher(directory: Path, name: str) -> None:
    """Let a run read and write the teacher's slates of all runs of its seed."""
    (directory / "teacher").mkdir(parents=True, exist_ok=True)
    (directory / name).mkdir(exist_ok=True)
    if not (directory / name / "teacher").exists():
        (directory / name / "teacher").symlink_to(Path("..") / "teacher")


def read_teacher(trained: Trained, directory: Path, lists: Lists) -> Taught:
    """Search the test lists once for all cells of a seed."""
    path = directory / "teacher.npz"
    if not path.exists():
        settings = trained.config.search
        assert settings is not None
        objective = Objective(trained.config, trained.featuriser, trained.evaluator)
        slates, values = [], []
        for start in range(0, len(lists), LISTS_AT_ONCE):
            of_lists = objective.of(Batch(lists, slice(start, start + LISTS_AT_ONCE)))
            slates.append(search(of_lists, settings))
            values.append(of_lists.value(slates[-1].unsqueeze(1)).squeeze(1))
        save(path, {"slate": torch.cat(slates).numpy(), "value": torch.cat(values).numpy()})
    arrays = load(path)
    return Taught(torch.from_numpy(arrays["slate"]), torch.from_numpy(arrays["value"]))


def measure(trained: Trained, judge: Judge, taught: Taught, gates: list[str]) -> dict[str, Array]:
    """Return the figures of greedy slates of the test lists behind gates.

    A key is a gate and a figure. Those of OF_SLATES and of the labels are float [R]:
    regret is 1 - objective of the slate / that of the teacher's; agreement the share of the
    positions with the teacher's item; entropy the mean over positions when the item was chosen,
    in nats. Those of POSITIONAL are means over lists, [K]. ms is processor time of the torch loop
    for one list.
    """
    policy = Policy(trained.config, trained.generator, -1.0)
    objective = Objective(trained.config, trained.featuriser, trained.evaluator)
    test = judge.lists["test"]
    arrays: dict[str, Array] = {}
    built = build_gates(policy, judge.lists["valid"], gates, trained.config.seed)
    for gate, build in built.items():
        decoded = decode_all(policy, test, build)
        slate, steps, before, after = (
            torch.cat([getattr(d, name) for d in decoded])
            for name in ("slate", "steps", "entropy_before", "entropy_after")
        )
        value = value_of(objective, test, slate)
        present = slate >= 0
        filled = present.sum(dim=1)
        figures = {
            "regret": 1 - value / taught.value,
            "agreement": ((slate == taught.slate) & present).sum(dim=1) / filled,
            "steps": steps.sum(dim=1).double(),
            "entropy": after.sum(dim=1) / filled,
            "entropy before": before.sum(dim=0) / present.sum(dim=0).clamp(min=1),
            "entropy after": after.sum(dim=0) / present.sum(dim=0).clamp(min=1),
            "steps by position": steps.double().mean(dim=0),
        }
        arrays |= {f"{gate} {name}": tensor.numpy() for name, tensor in figures.items()}
        of_labels = judge.measure(slate.numpy())
        arrays |= {f"{gate} {name}": values for name, values in of_labels.items()}
        arrays[f"{gate} ms"] = np.array(milliseconds(policy, test, build))
    return arrays


@torch.no_grad()
def value_of(objective: Objective, lists: Lists, slate: torch.Tensor) -> torch.Tensor:
    """Return the objective [R] of slates int64 [R, K]."""
    values = []
    for start in range(0, len(lists), LISTS_AT_ONCE):
        rows = slice(start, start + LISTS_AT_ONCE)
        of_lists = objective.of(Batch(lists, rows))
        values.append(of_lists.value(slate[rows].unsqueeze(1)).squeeze(1))
    return torch.cat(values)


def milliseconds(policy: Policy, lists: Lists, build: Build) -> float:
    """Return the mean processor time of composing one slate, list by list, after WARM_UPS lists."""
    decode_all(policy, lists.take(np.arange(WARM_UPS)), build, at_once=1)
    timed = lists.take(np.arange(min(TIMED, len(lists))))
    began = time.process_time()
    decode_all(policy, timed, build, at_once=1)
    return 1000.0 * (time.process_time() - began) / len(timed)


def fill(
    source: Source, config: Config, seed: int, directory: Path, judge: Judge
) -> dict[str, dict[str, Array]]:
    """Return the cells of a source and seed by model and of the evaluator, missing ones filled.

    Raises CheckpointError if the existing cells have another configuration or other data.
    """
    seeded = dataclasses.replace(config, seed=seed)
    directory.mkdir(parents=True, exist_ok=True)
    record_setting(directory, seeded, judge.dataset)
    if not all((directory / f"{name}.npz").exists() for name in (EVALUATOR, *source.models)):
        train_evaluator(source, seeded, directory, judge.dataset)
    cells = {name: fill_cell(source, seeded, name, directory, judge) for name in source.models}
    return {**cells, EVALUATOR: load(directory / f"{EVALUATOR}.npz")}


def train_evaluator(source: Source, config: Config, directory: Path, dataset: Dataset) -> None:
    """Train the evaluator that all cells of a seed share, or finish its training."""
    began = time.process_time()
    whole = dataclasses.replace(config, train_lists=source.evaluator_lists)
    Run(whole, dataset, directory / EVALUATOR, None).run(stop_before="warm_start")
    if not (directory / f"{EVALUATOR}.npz").exists():
        seconds = np.array(time.process_time() - began)
        save(directory / f"{EVALUATOR}.npz", {"seconds": seconds, "commit": commit()})


def commit() -> Array:
    """Return the commit that a cell is made by, as an array."""
    return np.array(current_commit())
