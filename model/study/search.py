"""Measure learning from search: regret to the teacher with and without reasoning, by gate.

A cell is a model with a seed. It ranks the test lists behind several gates, and keeps its figures
for each list, so that an interrupted command resumes and later ones add models and seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.intervals import rounded
from model.data.lists import Lists
from model.data.metrics import selecting_metric, slate_metrics
from model.learning import checkpoint
from model.learning.checkpoint import Trained
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy
from model.learning.state import current_commit
from model.learning.teacher import search
from model.learning.train import train
from model.network.config import Config, ConfigError
from model.study.commands import cache_directory, command_line, report_directory
from model.study.grid import load, record_setting, save
from model.study.pages import provenance
from model.study.search_command import Search
from model.study.variants import HOST, Overrides, with_overrides

Array = np.ndarray[Any, Any]
REFERENCE = "host"
EVERY_STEP: Overrides = {
    "search": {"gates": "configured"},
    "reasoning": {"training_gate": "always"},
}
MODELS: dict[str, Overrides] = {
    "host": HOST,
    "EGLR": {},
    "EGLR trained with every step": EVERY_STEP,
    "EGLR scored at every step": {"search": {"step_weight": 0.3}},
    "zero token": {"reasoning": {"token": "zero"}},
    "learned token": {"reasoning": {"token": "learned"}},
}
# Quantile of the validation entropies that is the threshold; None takes every step.
GATES: dict[str, float | None] = {"none": 1.0, "10 %": 0.9, "50 %": 0.5, "every": None}
LISTS_AT_ONCE = 256


def report(command: Search) -> None:
    """Fill the missing cells, print their figures, and write them with paired differences.

    Raises ConfigError for an unknown model or a configuration without `search`.
    """
    torch.set_num_threads(1)
    config = Config.load(command.config)
    config = config.smoke() if command.smoke else config
    if config.search is None:
        raise ConfigError(f"{command.config}: search: required by this command, but missing")
    for name in command.models:
        if name not in MODELS:
            raise ConfigError(f"--models: must be one of {', '.join(MODELS)}, got {name!r}")
    cache = cache_directory(command.cache, command.smoke, "search")
    dataset, cells = Dataset(command.data), {}
    for seed in range(command.seeds):
        seeded = dataclasses.replace(config, seed=seed)
        directory = cache / f"seed{seed}"
        directory.mkdir(parents=True, exist_ok=True)
        record_setting(directory, seeded, dataset)
        for name in dict.fromkeys((REFERENCE, *command.models)):
            cells[name, seed] = fill_cell(seeded, name, directory, dataset)
            for gate in gates_of(name):
                figures = {f: float(cells[name, seed][f"{gate} {f}"].mean()) for f in figures_of()}
                print(json.dumps({"model": name, "seed": seed, "gate": gate, **figures}))
    payload = {
        "made": provenance(command_line("search", command)),
        "lists": len(next(iter(cells.values()))["none regret"]),
        "rows": summarise(cells, command.seeds),
    }
    out = report_directory(command.out, command.smoke)
    out.mkdir(parents=True, exist_ok=True)
    (out / "search.json").write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")


def gates_of(model: str) -> list[str]:
    """Return the gates behind which a model ranks; a plain host has no steps to choose."""
    return ["none"] if model == REFERENCE else list(GATES)


def figures_of() -> tuple[str, ...]:
    """Return the figures of a list that a cell keeps for every gate."""
    return ("regret", "agreement", "ndcg@10", "steps", "entropy")


def fill_cell(config: Config, name: str, directory: Path, dataset: Dataset) -> dict[str, Array]:
    """Return the figures [R] of one model and seed, from its file or by training it."""
    path = directory / f"{name}.npz"
    if not path.exists():
        start = None if name == REFERENCE else directory / REFERENCE
        variant = with_overrides(config, MODELS[name])
        train(variant, dataset, directory / name, start)
        trained = checkpoint.load(directory / name)
        arrays: dict[str, Array] = {"seconds": np.array(trained.state.seconds)}
        valid, test = (
            dataset.lists([split], config.train_lists).rankable() for split in ("valid", "test")
        )
        for gate in gates_of(name):
            figures = measure(trained, valid, test, GATES[gate])
            arrays |= {f"{gate} {figure}": values for figure, values in figures.items()}
        save(path, arrays | {"commit": np.array(current_commit())})
    return load(path)


def measure(
    trained: Trained, valid: Lists, test: Lists, quantile: float | None
) -> dict[str, Array]:
    """Return the figures [R] of greedy slates of the test lists behind a gate.

    regret: 1 - objective of the slate / that of the teacher's; agreement: share of the positions
    with the teacher's item; entropy: mean over positions when the item was chosen, nats.
    """
    policy = Policy(trained.config, trained.generator, -1.0)
    budget = trained.config.reasoning.budget
    if quantile == 1.0:
        budget, policy.threshold = 0, math.inf
    elif quantile is not None:
        policy.threshold = float(torch.quantile(policy.entropies(valid), quantile))
    decoded = policy.greedy_slates(test, budget)
    slate = torch.cat([d.slate for d in decoded])
    value, best, taught = compare(trained, test, slate)
    present = slate >= 0
    entropy = torch.cat([d.entropy_after for d in decoded])
    filled = present.sum(dim=1)
    metric = selecting_metric(test.scale)
    return {
        "regret": (1 - value / best).numpy(),
        "agreement": (((slate == taught) & present).sum(dim=1) / filled).numpy(),
        "ndcg@10": slate_metrics(slate.numpy(), test.labels, test.scale)[metric],
        "steps": torch.cat([d.steps for d in decoded]).sum(dim=1).numpy().astype(np.float64),
        "entropy": (entropy.sum(dim=1) / filled).numpy(),
    }


@torch.no_grad()
def compare(
    trained: Trained, lists: Lists, slate: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return objectives of slates and of the teacher's, each [R], and these, int64 [R, K]."""
    settings = trained.config.search
    assert settings is not None
    objective = Objective(trained.config, trained.featuriser, trained.evaluator)
    values, best, slates = [], [], []
    for start in range(0, len(lists), LISTS_AT_ONCE):
        rows = slice(start, start + LISTS_AT_ONCE)
        of_lists = objective.of(Batch(lists, rows))
        slates.append(search(of_lists, settings))
        both = of_lists.value(torch.stack([slate[rows], slates[-1]], dim=1))
        values.append(both[:, 0])
        best.append(both[:, 1])
    return torch.cat(values), torch.cat(best), torch.cat(slates)


def summarise(cells: Mapping[tuple[str, int], Mapping[str, Array]], seeds: int) -> list[Any]:
    """Return mean and interval of every figure, and its paired difference from the host's."""
    rows = []
    for model in dict.fromkeys(name for name, _ in cells):

        def stack(name: str, key: str) -> Array:
            return np.stack([cells[name, seed][key] for seed in range(seeds)])

        value_of: Callable[[str], Array] = functools.partial(stack, model)
        for gate in gates_of(model):
            row: dict[str, Any] = {"model": model, "gate": gate}
            for figure in figures_of():
                values = value_of(f"{gate} {figure}")
                row[figure] = rounded(values, 6)
                if model != REFERENCE:
                    difference = values - stack(REFERENCE, f"none {figure}")
                    row[f"{figure} - {REFERENCE}"] = rounded(difference, 6)
            rows.append(row)
    return rows
