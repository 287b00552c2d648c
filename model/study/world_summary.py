"""Compute the simulated environment's report from cached cells and the click model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from model.data.dataset import Dataset
from model.data.intervals import rounded
from model.study.baselines import random_order
from model.study.click_model import ClickModel, appeals_and_topics
from model.study.world_cells import QUANTILES

Array = np.ndarray[Any, Any]
Cells = dict[tuple[str, str], list[dict[str, Array]]]  # (host, "host" or "eglr") -> a cell per seed
LABEL = {"dataset": "world", "split": "test"}


def read_cells(cache: Path, hosts: Sequence[str], seeds: int) -> Cells:
    """Read the finished cells of every host and seed."""
    return {
        (host, name): [
            dict(np.load(cache / host / f"seed{seed}" / f"{name}.npz")) for seed in range(seeds)
        ]
        for host in hosts
        for name in ("host", "eglr")
    }


def summarise(data: Path, cells: Cells, hosts: Sequence[str], length: int) -> dict[str, Any]:
    """Return rows, comparisons, gates, tables and ambiguity, as in the report's JSON.

    `length` is the slate length. `worth` in the JSON is expected clicks.
    """
    dataset, click_model = Dataset(data), ClickModel()
    appeal, topic = appeals_and_topics(dataset, "test")
    _, best = click_model.best_slates(appeal, topic, length)
    by_appeal = click_model.expected_clicks(appeal, topic, np.argsort(-appeal, axis=1)[:, :length])
    at_random = random_order(dataset.lists(["test"]), length, 0)
    worths = {  # model -> worth [R] of its slates, per seed
        "best of all": [best],
        "sort by appeal": [by_appeal],
        "random order": [click_model.expected_clicks(appeal, topic, at_random)],
        **{f"{host} {name}": [c["worth"] for c in seeds] for (host, name), seeds in cells.items()},
    }
    tables, rows = tables_of(worths, best)
    return {
        "rows": rows,
        "comparisons": [
            entry for host in hosts for entry in compare(host, worths, cells[host, "eglr"])
        ],
        "gates": [
            point
            for host in hosts
            for point in thresholds(host, cells[host, "eglr"], worths[f"{host} host"], best)
        ],
        "tables": tables,
        "ambiguity": [
            {
                "model": f"{host} {name}",
                "correlation": [round(value, 6) for value in ambiguity(seeds)],
                "steps": round(float(np.mean([c["reasoning_steps"].mean() for c in seeds])), 4),
            }
            for (host, name), seeds in cells.items()
        ],
    }


def tables_of(
    worths: Mapping[str, Sequence[Array]], best: Array
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return expected clicks and regret per model (means with intervals) and per seed (means)."""
    tables, rows = [], []
    for model, values in worths.items():
        figures = {"worth": list(values), "regret": [1.0 - value / best for value in values]}
        for seed in range(len(values)):
            for metric, by_seed in figures.items():
                mean = round(float(by_seed[seed].mean()), 6)
                place = {**LABEL, "model": model, "seed": seed}
                rows.append({**place, "metric": metric, "value": mean})
        tables.append({"model": model, **{n: rounded(np.array(v), 6) for n, v in figures.items()}})
    return tables, rows


def compare(
    host: str, worths: Mapping[str, Sequence[Array]], eglr: Sequence[Mapping[str, Array]]
) -> list[dict[str, Any]]:
    """Return paired differences in clicks: EGLR to its host, and each to the sort by appeal."""
    models = {name: np.array(worths[f"{host} {name}"]) for name in ("eglr", "host")}
    models["eglr, every step"] = np.array([cell["gate_worth"][0] for cell in eglr])
    by_appeal = worths["sort by appeal"][0]
    entries = []
    for model, against in (
        ("eglr", "host"), ("eglr, every step", "host"), ("eglr", None), ("host", None),
    ):  # fmt: skip
        difference = models[model] - (models[against] if against else by_appeal)
        mean, low, high = rounded(difference, 6)
        entries.append(
            {**LABEL, "model": f"{host} {model}",
             "against": f"{host} {against}" if against else "sort by appeal", "metric": "worth",
             "mean_difference": mean, "low": low, "high": high,
             "seeds": [round(float(d), 6) for d in difference.mean(axis=1)]}
        )  # fmt: skip
    return entries


def thresholds(
    host: str,
    eglr: Sequence[Mapping[str, Array]],
    host_worths: Sequence[Array],
    best: Array,
) -> list[dict[str, Any]]:
    """Return steps, regret and gain over the plain host of EGLR's weights behind each threshold."""
    by_quantile = np.array([cell["gate_worth"] for cell in eglr]).swapaxes(0, 1)  # [Q, seeds, R]
    steps = np.mean([cell["gate_steps"] for cell in eglr], axis=0)
    return [
        {"host": host, "quantile": quantile, "steps": round(float(taken), 4),
         "regret": round(float((1.0 - worths / best).mean()), 6),
         "gain": rounded(worths - np.array(host_worths), 6)}
        for quantile, worths, taken in zip(QUANTILES, by_quantile, steps, strict=True)
    ]  # fmt: skip


def ambiguity(cells: Sequence[Mapping[str, Array]]) -> list[float]:
    """Correlate entropy before reasoning with the smallness of the gap, per seed (Spearman)."""
    return [float(spearmanr(c["entropies_before"].ravel(), -c["gap"].ravel())[0]) for c in cells]
