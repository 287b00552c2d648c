"""Reports from templates: Markdown, and an HTML page without other files, next to its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from loadtest.results import RateResult, described
from pages.figures import drawn, inline
from pages.page import environment

DIRECTORY = Path(__file__).with_name("templates")
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(DIRECTORY),
    autoescape=False,  # Markdown
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """Return a Markdown template of loadtest/templates filled with values."""
    return TEMPLATES.get_template(template).render(**values)


def write(out: Path, name: str, report: Mapping[str, Any], content: str) -> None:
    """Write NAME.json and NAME.html into a directory that is made if missing. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (out / f"{name}.html").write_text(content, "utf-8")


def bench(report: Mapping[str, Any], results: Sequence[RateResult]) -> str:
    """Return the HTML page of the runs at one or several rates."""
    from loadtest import plots

    runs = sorted(results, key=lambda run: run.load.rate)
    figures = {}
    if any(run.samples for run in runs):
        figures = {
            "Latency against rate": plots.against_rate(runs),
            "Percentiles": plots.percentiles(runs),
            "Reasoning against rate": plots.reasoning(runs),
            f"Timeline at {runs[-1].load.rate:.0f} requests per second": plots.timeline(runs[-1]),
        }
    beside = report.get("beside", ())
    facts = {
        name: "" if value is None else value
        for name, value in without_runs(report).items()
        if name != "beside"
    }
    return (
        environment(DIRECTORY)
        .get_template("bench.html")
        .render(
            title=f"{report.get('scenario', '')}: latency under load",
            facts=facts,
            rows=[row(run.report()) for run in runs],
            beside={
                ", ".join(
                    f"{key} {value}" for key, value in without_runs(section).items() if value
                ): [row(run) for run in sorted(section["runs"], key=lambda run: run["asked_rps"])]
                for section in beside
            },
            figures={
                title: Markup(inline(drawn(figure), title, f"figure-{number}"))
                for number, (title, figure) in enumerate(figures.items(), 1)
            },
        )
    )


def without_runs(report: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the runs out of a report and of the scenarios beside its first."""
    kept = {name: value for name, value in report.items() if name != "runs"}
    if "beside" in kept:
        kept["beside"] = [without_runs(section) for section in kept["beside"]]
    return kept


def row(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return one run as columns of the table; a figure that is missing is left empty."""
    latency = run["latency_ms"]
    columns = {
        "offered/s": run["offered_rps"],
        "answered/s": run["achieved_rps"],
        "requests": run["requests"],
        "failed": run["failed"],
        "initial ranking": run["unranked"],
        **{f"{name} ms": latency.get(name) for name in ("p50", "p90", "p99", "p99.9")},
        "queue ms": run["queue_ms"],
        "inference ms": run["inference_ms"],
        "steps": run["steps_used"],
        "budget": run["budget"],
        "failures": described(run["failures"]),
        "void": run["void"],
    }
    return {name: "" if value is None else value for name, value in columns.items()}
