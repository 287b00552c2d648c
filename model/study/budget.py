"""Measure utility and NDCG@10 of a bundle against the reasoning budget, for budget.md.

The service lowers the budget of every position under load (service/batching/budget.py). Each list
is ranked at every budget, behind the gate of the bundle and behind one that is always open, by the
session that the service runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.data.dataset import Dataset, Impression
from model.data.errors import DataError
from model.data.intervals import excludes_zero, rounded
from model.data.metrics import selecting_metric, slate_metrics
from model.learning.callers import is_rankable, shuffled
from model.learning.evaluate import LISTS_AT_ONCE, padded
from model.study.budget_command import BudgetReport
from model.study.commands import command_line, report_directory
from model.study.pages import provenance, render
from model.study.plots import BUDGET_COLOURS, pyplot, save
from service.engine.rows import Row, SlateSampling
from service.engine.session import Session

Array = np.ndarray[Any, Any]
OPEN = -1.0  # nats; every choice has a higher entropy
GATES: dict[str, float | None] = {"of the bundle": None, "always open": OPEN}
QUALITY = {"utility": "utility", "ndcg@10": "NDCG@10"}
DIGITS = {"utility": 5, "ndcg@10": 4, "steps": 2, "milliseconds": 3}
SMOKE_LISTS = 64


class WithoutNoise(SlateSampling):
    """One slate that is sampled without noise: the greedy one, with its utility."""

    def noise(self, positions: int, size: int) -> Array:
        """Return zeros, float32 [slates, K, N]."""
        return np.zeros((self.slates, positions, size), np.float32)


GREEDY = WithoutNoise(slates=1, seed=0)


def report(command: BudgetReport) -> None:
    """Measure the bundle unless only the page is wanted, then write JSON, page and plot.

    Raises DataError for a data set without a test list that has a better and a worse order.
    """
    out = report_directory(command.out, command.smoke)
    if not command.page_only:
        session = Session.load(command.bundle)
        limit = SMOKE_LISTS if command.smoke else None
        payload = {
            "made": provenance(command_line("budget", command)),
            "bundle": f"{session.manifest.name}/{session.manifest.version}",
            "entropy_threshold": session.manifest.entropy_threshold,
            **measure(session, Dataset(command.data), limit),
        }
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(payload, indent=1) + "\n"
        (out / "budget.json").write_text(text, encoding="utf-8")
    payload = json.loads((out / "budget.json").read_text(encoding="utf-8"))
    (out / "budget.md").write_text(page(payload), encoding="utf-8")
    plot(payload["rows"], out / "budget.png")


def measure(session: Session, dataset: Dataset, limit: int | None = None) -> dict[str, Any]:
    """Return the number of test lists, and a row of figures for each gate and budget.

    Args:
        limit: number of lists to rank; by default all that have a better and a worse order.

    Raises DataError without such a list.
    """
    scale = dataset.featuriser.schema.label
    rankable = (i for i in dataset.impressions(["test"]) if is_rankable(i, scale))
    lists = [shuffled(i) for i in islice(rankable, limit)]
    if not lists:
        raise DataError(dataset.directory, f"must have a test list with {scale.order}", value=0)
    budgets = range(session.manifest.budget + 1)
    cells = {
        (gate, budget): rank(session, lists, budget, threshold)
        for gate, threshold in GATES.items()
        for budget in tqdm(budgets, f"gate {gate}", disable=None, leave=False)
    }
    return {
        "lists": len(lists),
        "lists_in_a_run": LISTS_AT_ONCE,
        "metric": selecting_metric(scale),
        "rows": [summarise(gate, budget, cells) for gate, budget in cells],
    }


def rank(
    session: Session, lists: Sequence[Impression], budget: int, threshold: float | None
) -> dict[str, Array]:
    """Return utility, NDCG@10, steps and milliseconds of CPU time of each list's slate, each [R].

    The time is that of the graph alone, shared equally by the lists of a run.

    Args:
        budget: reasoning steps per position.
        threshold: entropy in nats; None for that of the bundle.
    """
    slates, milliseconds = [], []
    for block in blocks(lists):
        rows = [session.row(i.request, None, budget, threshold) for i in block]
        before = session.graph_cpu_s
        session.run(rows)
        spent = session.graph_cpu_s - before
        milliseconds += [1e3 * spent / len(block)] * len(block)
        slates += session.run([with_utility(row) for row in rows])
    chosen, labels = padded([s.indices.tolist() for s in slates], [i.labels for i in lists])
    scale = session.featuriser.schema.label
    metrics = slate_metrics(chosen, labels, scale)
    return {
        "utility": np.array([slate.utility for slate in slates], np.float64),
        "ndcg@10": metrics[selecting_metric(scale)],
        "steps": np.array([slate.steps.sum() for slate in slates], np.float64),
        "milliseconds": np.array(milliseconds),
    }


def with_utility(row: Row) -> Row:
    """Return the row with a request for the utility of its greedy slate."""
    return dataclasses.replace(row, sampling=GREEDY)


def blocks(lists: Iterable[Impression]) -> Iterator[list[Impression]]:
    """Yield the lists in blocks of LISTS_AT_ONCE, the last one shorter."""
    rest = iter(lists)
    while block := list(islice(rest, LISTS_AT_ONCE)):
        yield block


def summarise(
    gate: str, budget: int, cells: Mapping[tuple[str, int], Mapping[str, Array]]
) -> dict[str, Any]:
    """Return mean and interval of every figure, and the paired change from budget 0."""
    figures, base = cells[gate, budget], cells[gate, 0]
    row: dict[str, Any] = {"gate": gate, "budget": budget}
    row |= {name: rounded(values, DIGITS[name]) for name, values in figures.items()}
    row["change"] = {name: rounded(figures[name] - base[name], DIGITS[name]) for name in QUALITY}
    return row


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say for each gate which budgets differ from budget 0, and what budget 0 saves, in a list."""
    lines = []
    for gate in dict.fromkeys(row["gate"] for row in rows):
        base, *others = (row for row in rows if row["gate"] == gate)
        for name, title in QUALITY.items():
            apart = [r for r in others if excludes_zero(r["change"][name])]
            text = ", ".join(f"{r['budget']} ({r['change'][name][0]:+.5f})" for r in apart)
            said = f"differs from budget 0 at {text}" if apart else "differs at no budget from 0"
            lines.append(f"- Gate {gate}: **{title}** {said}.")
        if others:
            share = base["milliseconds"][0] / others[-1]["milliseconds"][0]
            lines.append(
                f"- Gate {gate}: budget 0 takes {share:.2f} of the graph's **time** at the full "
                "budget."
            )
    return "\n".join(lines)


def page(payload: Mapping[str, Any]) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    return render("budget.md.jinja", **payload, verdict=verdict(payload["rows"]))


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the change of both qualities, with intervals, and the time against the budget."""
    titles = {
        "utility": "utility by the evaluator, change from budget 0",
        "ndcg@10": "NDCG@10, change from budget 0",
        "milliseconds": "CPU time of the graph, ms a list",
    }
    figure, axes = pyplot().subplots(1, 3, figsize=(12.5, 3.6), layout="constrained")
    colours = dict(zip(GATES, (BUDGET_COLOURS[-1], BUDGET_COLOURS[1]), strict=True))
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for gate, colour in colours.items():
            of_gate = [row for row in rows if row["gate"] == gate]
            ends = [row["change"][name] if name in QUALITY else row[name] for row in of_gate]
            budgets = [row["budget"] for row in of_gate]
            axis.plot(budgets, [end[0] for end in ends], color=colour, marker="o", label=gate)
            if name in QUALITY and all(low is not None for _, low, _ in ends):
                low, high = [end[1] for end in ends], [end[2] for end in ends]
                axis.fill_between(budgets, low, high, color=colour, alpha=0.15, linewidth=0)
        if name in QUALITY:
            axis.axhline(0.0, color="#737373", linewidth=0.8)
        axis.set(xlabel="reasoning budget of a position", title=title, xticks=budgets)
        axis.grid(alpha=0.3)
    axes[0].legend(title="gate")
    save(figure, path)
