"""Plots of the reports. One colour per meaning: green full budget, orange reduced, red initial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.results import RateResult
from pages import figures

FULL, REDUCED, INITIAL, FAILED = "tab:green", "tab:orange", "tab:red", "black"
MAX_CURVES = 5  # of percentiles; more cannot be read


def new_figure(width: float = 8, height: float = 3.6) -> Figure:
    """Return an empty figure without a window."""
    return Figure(figsize=(width, height), layout="constrained")


def against_rate(runs: Sequence[RateResult]) -> Figure:
    """Plot three quantiles of latency against the rate, on a logarithmic axis."""
    figure = new_figure()
    axes = figure.subplots()
    rates = [run.load.rate for run in runs]
    for quantile in (0.5, 0.9, 0.99):
        latency = [run.latency_ms(quantile) if run.samples else np.nan for run in runs]
        axes.plot(rates, latency, "o-", markersize=3, label=f"p{100 * quantile:g}")
    axes.set(xlabel="rate (requests/s)", ylabel="latency (ms)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def percentiles(runs: Sequence[RateResult]) -> Figure:
    """Plot latency against the share of requests that took longer, on logarithmic axes."""
    figure = new_figure()
    axes = figure.subplots()
    indices = np.unique(np.linspace(0, len(runs) - 1, MAX_CURVES, dtype=int))
    for run in (runs[index] for index in indices):
        latency = np.sort([1e3 * s.latency_s for s in run.samples])
        if len(latency):
            beyond = 1 - np.arange(len(latency)) / len(latency)
            axes.plot(beyond, latency, label=f"{run.load.rate:.0f} requests/s")
    axes.set(xscale="log", yscale="log", ylabel="latency (ms)",
             xlabel="share of requests that took longer")  # fmt: skip
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def reasoning(runs: Sequence[RateResult]) -> Figure:
    """Plot reasoning steps used and budget granted against the rate."""
    figure = new_figure(height=5)
    panels = figure.subplots(2, 1, sharex=True)
    rates = [run.load.rate for run in runs]
    reports = [run.report() for run in runs]
    for axes, name, label in zip(
        panels,
        ("steps_used", "budget"),
        ("mean steps used\nper slate", "mean budget granted\n(steps per position)"),
        strict=True,
    ):
        means = [np.nan if report[name] is None else report[name] for report in reports]
        axes.plot(rates, means, "o-", markersize=3)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("rate (requests/s)")
    return figure


def timeline(run: RateResult) -> Figure:
    """Plot second by second how requests were answered, and p99."""
    figure = new_figure(height=5)
    counts, latency = figure.subplots(2, 1, sharex=True)
    seconds = sorted({int(s.due) for s in run.samples})
    parts: dict[str, list[int]] = {
        "full budget": [], "reduced budget": [], "initial ranking": [], "failed": [],
    }  # fmt: skip
    p99 = []
    for second in seconds:
        due = [s for s in run.samples if int(s.due) == second]
        failed = sum(s.status not in run.expected for s in due)
        reduced = sum(s.degraded == "reduced_budget" for s in due)
        initial = sum(s.degraded not in (None, "reduced_budget") for s in due)
        full = len(due) - failed - reduced - initial
        for name, count in zip(parts, (full, reduced, initial, failed), strict=True):
            parts[name].append(count)
        p99.append(1e3 * float(np.quantile([s.latency_s for s in due], 0.99)))
    counts.stackplot(seconds, *parts.values(), labels=[*parts],
                     colors=(FULL, REDUCED, INITIAL, FAILED), alpha=0.7)  # fmt: skip
    counts.set_ylabel("requests/s")
    counts.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    latency.plot(seconds, p99)
    latency.set(xlabel="time (s)", ylabel="p99 latency (ms)")
    latency.set_ylim(bottom=0)
    return figure


def overload(report: Mapping[str, Any], path: Path) -> None:
    """Plot the time series of an overload: responses, budget and latency."""
    series = report["series"]
    at = [second["second"] for second in series]
    figure = new_figure(9, 8)
    counts, budget, latency = figure.subplots(3, 1, sharex=True)
    counts.stackplot(
        at,
        *([second[part] for second in series] for part in ("full", "reduced_budget", "shed")),
        labels=("ranked, full budget", "ranked, reduced budget", "shed (initial ranking)"),
        colors=(FULL, REDUCED, INITIAL), alpha=0.7,
    )  # fmt: skip
    counts.plot(at, [s["offered"] for s in series], "k--", linewidth=1, label="offered")
    counts.set_ylabel("requests/s")
    counts.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    budget.plot(at, [np.nan if s["budget"] is None else s["budget"] for s in series])
    budget.set_ylabel("mean budget granted\n(steps per position)")
    budget.set_ylim(bottom=-0.1)
    latency.plot(at, [s["p99_ms"] for s in series])
    latency.axhline(report["deadline_ms"], color="k", linestyle=":")
    latency.annotate("deadline", (0, report["deadline_ms"]), xytext=(0, 3),
                     textcoords="offset points")  # fmt: skip
    latency.set(xlabel="time (s)", ylabel="p99 latency (ms)")
    latency.set_ylim(bottom=0)
    for axes in (counts, budget, latency):
        axes.grid(alpha=0.3)
    figures.save(figure, path)


GROWTH_LABELS = {
    "candidates": "candidates per list", "slate length": "positions per slate",
    "budget": "budget (steps per position)", "workers": "worker processes",
}  # fmt: skip


def growth(report: Mapping[str, Any], path: Path) -> None:
    """Plot one panel for each dimension that grows."""
    names = list(dict.fromkeys(row["what"] for row in report["rows"]))
    lines = (len(names) + 1) // 2
    figure = new_figure(10, 3 * lines)
    panels = figure.subplots(lines, 2, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        rows = [row for row in report["rows"] if row["what"] == name]
        if name == "body":
            _bodies(axes, rows)
        else:
            _line(axes, name, rows)
        axes.set_title(f"capacity by {name}")
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figures.save(figure, path)


def _line(axes: Axes, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    values = [int(row["value"]) for row in rows]
    axes.errorbar(values, [row["capacity_rps"] for row in rows], yerr=_interval(rows),
                  fmt="o-", capsize=4)  # fmt: skip
    axes.set(xlabel=GROWTH_LABELS.get(name, name), ylabel="requests/s")
    if name == "candidates":
        axes.set_xscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.set_ylim(0, 1.15 * max(row["high"] for row in rows))


def _bodies(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Plot a dot for each kind of body (rows) and format (colours)."""
    pairs = [row["value"].split(", ") for row in rows]
    kinds = list(dict.fromkeys(kind for kind, _ in pairs))
    for form, marker in (("JSON", "o"), ("MessagePack", "s")):
        chosen = [row for row in rows if row["value"].endswith(f", {form}")]
        heights = [kinds.index(row["value"].split(", ")[0]) for row in chosen]
        axes.errorbar([row["capacity_rps"] for row in chosen], heights, xerr=_interval(chosen),
                      fmt=marker, capsize=4, label=form)  # fmt: skip
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set(xlabel="requests/s")
    axes.set_xlim(0, 1.15 * max(row["high"] for row in rows))
    axes.legend(loc="upper left")


def _interval(rows: Sequence[Mapping[str, Any]]) -> list[list[float]] | None:
    """Return the distances to the lowest and highest search, or None after single searches."""
    if all(len(row["repeats"]) == 1 for row in rows):
        return None
    return [
        [row["capacity_rps"] - row["low"] for row in rows],
        [row["high"] - row["capacity_rps"] for row in rows],
    ]
