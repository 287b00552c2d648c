"""Compute means, paired differences and entropies of the quality report from finished cells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from model.data.intervals import rounded
from model.study import grid
from model.study.variants import BASELINES, NEURAL, Study

Array = np.ndarray[Any, Any]
METRICS = ("ndcg@5", "ndcg@10", "map@10")
FIGURES = (*METRICS, "utility", "reasoning_steps", "validation", "grpo_kept")
SECTIONS = [
    ("ranklens", "warm", "stand-alone"),
    ("ranklens", "cold", "stand-alone"),
    ("movielens", "all", "first stage"),
]
HOSTS = ("transformer", "gru", "pointer")
PAIRS = [
    *((f"{host} EGLR", f"{host} host") for host in HOSTS),
    ("one head", "transformer EGLR"),
    *((f"{host} {kind}", "LambdaMART") for host in HOSTS for kind in ("EGLR", "host")),
    ("transformer EGLR", "NAR4Rec"),
    ("transformer EGLR", "shown order"),
    ("transformer EGLR", "item like rate"),
]
MODELS = (*BASELINES, *NEURAL)  # in the order of the tables
Key = tuple[str, str, str]
Cells = dict[str, list[dict[str, Any]]]  # model -> a cell per seed: its seed and its arrays


def read_cells(studies: Sequence[Study], cache: Path) -> dict[Key, Cells]:
    """Read the finished cells, by study and model, seeds in order."""
    collected: dict[Key, Cells] = {}
    for study in studies:
        for model in study.models:
            path = study.directory(cache) / f"{model}.npz"
            if path.exists():
                cells = collected.setdefault((study.dataset, study.split, study.track), {})
                cells.setdefault(model, []).append({"seed": study.seed, **grid.load(path)})
    return collected


def summarise(collected: dict[Key, Cells]) -> dict[str, list[dict[str, Any]]]:
    """Return cells, rows per seed, tables of means, paired comparisons and entropies."""
    entries: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    positions: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for key, cells in collected.items():
        label = dict(zip(("dataset", "split", "track"), key, strict=True))
        for model, seeds in cells.items():
            for cell in seeds:
                place = {**label, "model": model, "seed": int(cell["seed"])}
                entries.append({**place, **identity(cell), **commits_of([cell])})
                for metric in (m for m in FIGURES if m in cell):
                    value = round(float(cell[metric].mean()), 6)
                    rows.append({**place, "metric": metric, "value": value, **commits_of([cell])})
            if model in NEURAL:
                positions.append(
                    {**label, "model": model, **entropy_by_position(seeds), **commits_of(seeds)}
                )
        tables += [
            {**label, "model": model, **entry} for model, entry in table_entries(cells).items()
        ]
        for model, against in PAIRS:
            if model in cells and against in cells:
                comparisons += paired_differences(label, cells, model, against)
    return {"cells": entries, "rows": rows, "comparisons": comparisons, "positions": positions,
            "tables": tables}  # fmt: skip


def identity(cell: Mapping[str, Array]) -> dict[str, Any]:
    """Return the digest of a cell's slates and metrics of each list, and its processor seconds."""
    digest = hashlib.sha256()
    for name in ("slate", *METRICS):
        digest.update(np.ascontiguousarray(cell[name]).tobytes())
    return {"digest": digest.hexdigest(), "cpu_seconds": round(float(cell["cpu_seconds"]), 1)}


def table_entries(cells: Cells) -> dict[str, dict[str, Any]]:
    """Return a table's rows: means with intervals over the seeds that all of its models have.

    Every seed has its own evaluator, so means over different seeds do not compare.
    """
    by_model = {
        model: {int(c["seed"]): c for c in cells[model]} for model in MODELS if model in cells
    }
    shared = sorted(set.intersection(*map(set, by_model.values())))
    if not shared:
        return {}
    entries = {}
    for model, by_seed in by_model.items():
        seeds = [by_seed[seed] for seed in shared]
        entry: dict[str, Any] = {
            m: rounded(np.array([np.atleast_1d(c[m]) for c in seeds]), 6)
            for m in FIGURES
            if all(m in c for c in seeds)
        }
        entry |= {"seeds": len(seeds), "lists": len(seeds[0]["ndcg@10"]), **commits_of(seeds)}
        entry["cpu_seconds"] = round(float(np.mean([c["cpu_seconds"] for c in seeds])), 1)
        entries[model] = entry
    return entries


def commits_of(cells: Sequence[Mapping[str, Array]]) -> dict[str, list[str]]:
    """Return the commits that made these cells; nothing if one of them does not name its commit."""
    if not all("commit" in cell for cell in cells):
        return {}
    return {"commits": sorted({str(cell["commit"]) for cell in cells})}


def entropy_by_position(seeds: list[dict[str, Array]]) -> dict[str, list[float]]:
    """Average over seeds, per position: entropy before and after reasoning (nats), steps."""
    return {
        name: [round(float(v), 6) for v in np.mean([c[name] for c in seeds], axis=0)]
        for name in ("entropy_before", "entropy_after", "steps_by_position")
    }


def paired_differences(
    label: dict[str, str], cells: Cells, model: str, against: str
) -> list[dict[str, Any]]:
    """Return one paired difference per metric, on the seeds that both models have."""
    others = {int(c["seed"]): c for c in cells[against]}
    pairs = [(c, others[int(c["seed"])]) for c in cells[model] if int(c["seed"]) in others]
    entries = []
    for metric in METRICS if pairs else ():
        difference = np.array([cell[metric] - other[metric] for cell, other in pairs])
        mean, low, high = rounded(difference, 6)
        of_lists = difference.mean(axis=0)
        constant = np.ptp(of_lists) < 1e-9  # a t-test would divide by zero
        p = float(mean == 0) if constant else float(ttest_1samp(of_lists, 0.0).pvalue)
        entries.append(
            {**label, "model": model, "against": against, "metric": metric,
             "mean_difference": mean, "low": low, "high": high, "p": round(p, 6),
             "seeds": [round(float(d), 6) for d in difference.mean(axis=1)],
             **commits_of([cell for pair in pairs for cell in pair])}
        )  # fmt: skip
    return entries
