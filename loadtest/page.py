"""Reports to look at: one HTML page that needs nothing beside it, and the same figures as JSON."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from loadtest.results import Offered

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
       color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .7rem;
       text-align: right; border-bottom: 1px solid #ddd } th { border-color: #888 }
td:first-child, th:first-child { text-align: left } svg { max-width: 100%; height: auto }
code { background: #f3f3f3; padding: .1rem .3rem } .void { color: #b00 }
"""


def write(out: Path, name: str, report: Mapping[str, Any], content: str) -> None:
    """NAME.json and NAME.html in a folder that is made where it is missing. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (out / f"{name}.html").write_text(content, "utf-8")


def bench(report: Mapping[str, Any], found: Sequence[Offered]) -> str:
    """The page of runs at one or several rates."""
    runs = sorted(found, key=lambda run: run.load.rate)
    told = {name: value for name, value in report.items() if name != "runs"}
    facts = [[name, value] for name, value in told.items()]
    rows = [row(run.report()) for run in runs]
    parts = [table(["", ""], facts), table(COLUMNS, rows)]
    if any(run.samples for run in runs):
        parts += [
            picture("Latency against rate", against_rate(runs)),
            picture("Percentiles", percentiles(runs)),
            picture("Reasoning against rate", reasoning(runs)),
            picture(
                f"Timeline at {runs[-1].load.rate:.0f} requests per second", timeline(runs[-1])
            ),
        ]
    return document(f"{report.get('scenario', '')}: latency under load", parts)


COLUMNS = (
    "rate", "answered/s", "requests", "failed", "initial ranking", "p50 ms", "p90", "p99", "p99.9",
    "queue ms", "inference ms", "steps", "budget", "",
)  # fmt: skip


def row(run: Mapping[str, Any]) -> list[Any]:
    """One run as a line of the table."""
    latency = run["latency_ms"]
    return [
        run["offered_rps"], run["achieved_rps"], run["requests"], run["failed"], run["unranked"],
        *(latency.get(name) for name in ("p50", "p90", "p99", "p99.9")),
        run["queue_ms"], run["inference_ms"], run["steps_used"], run["budget"], run["void"] or "",
    ]  # fmt: skip


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}'
    return f"{head}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; None is left empty."""

    def cells(values: Sequence[Any], tag: str) -> str:
        shown = ("" if value is None else html.escape(str(value)) for value in values)
        return "".join(f"<{tag}>{each}</{tag}>" for each in shown)

    head = f"<tr>{cells(columns, 'th')}</tr>" if any(columns) else ""
    lines = "".join(f"<tr>{cells(each, 'td')}</tr>" for each in rows)
    return f"<table>{head}{lines}</table>"


def picture(title: str, figure: Figure) -> str:
    """A figure inside the page, under its title."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    return f"<h2>{html.escape(title)}</h2>{drawing[drawing.index('<svg') :]}"


def drawn(width: float = 8, height: float = 3.6) -> Figure:
    """An empty figure, of no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def against_rate(runs: Sequence[Offered]) -> Figure:
    """Three quantiles of latency, on a logarithmic axis."""
    figure = drawn()
    axes = figure.subplots()
    rates = [run.load.rate for run in runs]
    for quantile in (0.5, 0.9, 0.99):
        told = [run.latency_ms(quantile) if run.samples else np.nan for run in runs]
        axes.plot(rates, told, "o-", markersize=3, label=f"p{100 * quantile:g}")
    axes.set(xlabel="requests per second", ylabel="ms", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def percentiles(runs: Sequence[Offered]) -> Figure:
    """Latency by the share of requests that took longer, on logarithmic axes."""
    figure = drawn()
    axes = figure.subplots()
    shown = np.unique(np.linspace(0, len(runs) - 1, 5, dtype=int))  # more cannot be told apart
    for run in (runs[index] for index in shown):
        latency = np.sort([1e3 * s.latency_s for s in run.samples])
        if len(latency):
            beyond = 1 - np.arange(len(latency)) / len(latency)
            axes.plot(beyond, latency, label=f"{run.load.rate:.0f}/s")
    axes.set(xscale="log", yscale="log", ylabel="ms", xlabel="share of requests that took longer")
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def reasoning(runs: Sequence[Offered]) -> Figure:
    """Steps used and budget granted."""
    figure = drawn()
    steps = figure.subplots()
    budget = steps.twinx()
    rates = [run.load.rate for run in runs]
    reports = [run.report() for run in runs]
    told = {name: [np.nan if r[name] is None else r[name] for r in reports]
            for name in ("steps_used", "budget")}  # fmt: skip
    steps.plot(rates, told["steps_used"], "o-", markersize=3, color="tab:blue")
    steps.set(xlabel="requests per second", ylabel="mean steps used of a slate")
    steps.yaxis.label.set_color("tab:blue")
    budget.plot(rates, told["budget"], "s--", markersize=3, color="tab:orange")
    budget.set_ylabel("mean budget per position")
    budget.yaxis.label.set_color("tab:orange")
    budget.set_ylim(bottom=0)
    steps.set_ylim(bottom=0)
    return figure


def timeline(run: Offered) -> Figure:
    """Second by second: what became of the requests, and p99."""
    figure = drawn(height=5)
    counts, latency = figure.subplots(2, 1, sharex=True)
    seconds = sorted({int(s.due) for s in run.samples})
    parts: dict[str, list[int]] = {
        "in full": [], "reduced budget": [], "initial ranking": [], "failed": [],
    }  # fmt: skip
    p99 = []
    for second in seconds:
        own = [s for s in run.samples if int(s.due) == second]
        failed = [s for s in own if s.status not in run.expected]
        reduced = [s for s in own if s.degraded == "reduced_budget"]
        initial = [s for s in own if s.degraded not in (None, "reduced_budget")]
        counts_of = (len(reduced), len(initial), len(failed))
        for name, count in zip(parts, (len(own) - sum(counts_of), *counts_of), strict=True):
            parts[name].append(count)
        p99.append(1e3 * float(np.quantile([s.latency_s for s in own], 0.99)))
    colours = ("tab:green", "tab:orange", "tab:red", "black")
    counts.stackplot(seconds, *parts.values(), labels=[*parts], colors=colours, alpha=0.7)
    counts.set_ylabel("requests per second")
    counts.legend(loc="lower left")
    latency.plot(seconds, p99)
    latency.set(xlabel="seconds", ylabel="p99, ms")
    latency.set_ylim(bottom=0)
    return figure
