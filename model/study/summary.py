"""Compute means, paired differences and curves of the quality report from finished cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from model.data.intervals import rounded
from model.study import grid
from model.study.variants import BASELINES, CONTROLS, IDEAS, NEURAL, SLATES, Study

Array = np.ndarray[Any, Any]
METRICS = ("ndcg@5", "ndcg@10", "map@10")
FIGURES = (*METRICS, "utility", "reasoning_steps", "validation", "grpo_kept")
SECTIONS = [(d, s, t) for d, s, t in (
    ("ranklens", "warm", "stand-alone"), ("ranklens", "warm", "first stage"),
    ("ranklens", "cold", "stand-alone"), ("ranklens", "cold", "first stage"),
    ("ranklens", "metarank", "stand-alone"), ("movielens", "all", "first stage"),
)]  # fmt: skip
PAIRS = [
    *((f"{host} EGLR", f"{host} host") for host in ("transformer", "gru")),
    ("pointer EGLR", "pointer host"),
    ("transformer EGLR S=1", "transformer host"),
    *((f"{host} {kind}", "LambdaMART") for host in ("transformer", "gru")
      for kind in ("EGLR", "host")),
    ("transformer EGLR", "shown order"),
    ("transformer EGLR", "item like rate"),
]  # fmt: skip
# Every control and idea is compared with both.
REFERENCES = ("transformer host", "transformer EGLR")
TABLES = {
    "main": (*BASELINES, *NEURAL),
    "Controls": (*REFERENCES, *CONTROLS),
    "Ideas": (*REFERENCES, *IDEAS),
}
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
    """Return rows per seed, tables of means, paired comparisons, best-of-M curves, entropies."""
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    positions: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for key, cells in collected.items():
        label = dict(zip(("dataset", "split", "track"), key, strict=True))
        for model, seeds in cells.items():
            if model == "best of M":
                curves += [{**p, **commits_of(seeds)} for p in best_of_m_points(label, seeds)]
            if model in ("best of M", "second evaluator"):
                continue
            for cell in seeds:
                for metric in (m for m in FIGURES if m in cell):
                    value = round(float(cell[metric].mean()), 6)
                    rows.append(
                        {**label, "model": model, "seed": int(cell["seed"]),
                         "metric": metric, "value": value, **commits_of([cell])}
                    )  # fmt: skip
            if model in NEURAL:
                positions.append(
                    {**label, "model": model, **entropy_by_position(seeds), **commits_of(seeds)}
                )
        tables += [
            {**label, "title": title, "model": model, **entry}
            for title, models in TABLES.items()
            if cells.keys() & (set(models) - (set(REFERENCES) if title != "main" else set()))
            for model, entry in table_entries(cells, models).items()
        ]
        variants = [(name, other) for name in (*CONTROLS, *IDEAS) for other in REFERENCES]
        for model, against in (*PAIRS, *variants):
            if model in cells and against in cells:
                comparisons += paired_differences(label, cells, model, against)
    return {"rows": rows, "comparisons": comparisons, "curves": curves, "positions": positions,
            "tables": tables}  # fmt: skip


def table_entries(cells: Cells, models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a table's rows: means with intervals over the seeds that all of its models have.

    Every seed has its own evaluator, so means over different seeds do not compare.
    """
    by_model = {
        model: {int(c["seed"]): c for c in cells[model]} for model in models if model in cells
    }
    shared = sorted(set.intersection(*map(set, by_model.values())))
    if not shared:
        return {}
    second = {int(c["seed"]): c for c in cells.get("second evaluator", ())}
    entries = {}
    for model, by_seed in by_model.items():
        seeds = [by_seed[seed] for seed in shared]
        entry: dict[str, Any] = {
            m: rounded(np.array([np.atleast_1d(c[m]) for c in seeds]), 6)
            for m in FIGURES
            if all(m in c for c in seeds)
        }
        entry |= {"seeds": len(seeds), "lists": len(seeds[0]["ndcg@10"]), **commits_of(seeds)}
        entry["seconds"] = round(float(np.mean([c["train_seconds"] for c in seeds])), 1)
        if all(model in second.get(seed, ()) for seed in shared):
            mean = float(np.mean([second[s][model].mean() for s in shared]))
            entry["second utility"] = round(mean, 6)
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


def best_of_m_points(label: dict[str, str], seeds: list[dict[str, Array]]) -> list[dict[str, Any]]:
    """Return one point per budget and M: means over seeds and lists, median milliseconds."""
    points = []
    for budget in range(len(seeds[0]["seconds"])):
        for index, slates in enumerate(SLATES):
            means = {
                metric: rounded(np.array([c[metric][budget, index] for c in seeds]), 6)
                for metric in ("ndcg@10", "utility")
            }
            seconds = np.median([c["seconds"][budget, index] for c in seeds])
            points.append(
                {**label, "budget": budget, "slates": slates, "ms": round(1e3 * float(seconds), 3),
                 **means}
            )  # fmt: skip
    return points


def equal_latency(curves: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return EGLR's single slate, and the host's largest M (at least 1) that takes no longer."""
    budget = max((point["budget"] for point in curves), default=0)
    eglr = next((p for p in curves if (p["budget"], p["slates"]) == (budget, 1)), None)
    if eglr is None:
        return None
    host = [p for p in curves if p["budget"] == 0 and (p["slates"] == 1 or p["ms"] <= eglr["ms"])]
    return eglr, host[-1]
