"""Write docs/reports/catalogue.md from every catalogue_*.json, with what 4 billion rows would take.

Each file has `rows` of {case, items, rows, stage, ...} and the command that made them;
catalogue.json joins them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.study.pages import render

FIRST_COLUMNS = ("case", "rows", "items", "stage")
JOINED = (
    "case",
    "items",
    "rows",
    "stage",
    "seconds",
    "peak_mb",
    "private_mb",
    "bundle_mb",
    "p50_ms",
)
HIDDEN = ("users", "workers", "load", "commit", "log_mb", "data_mb", "main_mb", "unfinished_mb")
LARGE = 100.0  # numbers from here on have no decimals
TARGET = 4_000_000_000
PROCESSORS = 128  # of the cluster that the page computes for
# Stages whose tasks run on workers; the command itself does the others.
PARALLEL = ("deal", "collect", "divide", "count", "merge", "write", "featurise")
Row = Mapping[str, Any]


def write_page(out: Path) -> None:
    """Write catalogue.md and catalogue.json from the catalogue_*.json below `out`."""
    reports = {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(out.glob("catalogue_*.json"))
    }
    sections = [_section(name, report) for name, report in reports.items()]
    long_logs = reports.get("catalogue_shards.json", {"rows": []})
    shards = long_logs["rows"]
    estimate = None
    if any(row["rows"] for row in shards):
        estimate = estimate_target(shards, _processors(long_logs["made"]))
    page = render("catalogue.md.jinja", sections=sections, estimate=estimate, loads=_loads(shards))
    (out / "catalogue.md").write_text(page, encoding="utf-8")
    rows = [
        {"file": name} | {column: row[column] for column in JOINED if column in row}
        for name, report in reports.items()
        for row in report["rows"]
    ]
    text = json.dumps({"rows": rows, "estimate": estimate}, indent=1) + "\n"
    (out / "catalogue.json").write_text(text, encoding="utf-8")


def _section(name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return one file as a table of text."""
    made, rows = report.get("made", report), report["rows"]
    keys = dict.fromkeys(key for row in rows for key in row if key not in HIDDEN)
    columns = [key for key in FIRST_COLUMNS if key in keys]
    columns += [key for key in keys if key not in columns]
    return {
        "file": name,
        "command": made["command"],
        "commits": _commits(report, made),
        "columns": columns,
        "cells": [[_text(row.get(column)) for column in columns] for row in rows],
    }


def _commits(report: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Return the commits that the figures of a file come from, each once."""
    of_rows = [row["commit"] for row in report["rows"] if "commit" in row]
    of_file = [*report.get("commits", {}).values(), *([made["commit"]] if "commit" in made else [])]
    return [*dict.fromkeys(of_rows or of_file)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and abs(value) < LARGE:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def _loads(rows: Sequence[Row]) -> list[float]:
    loads = sorted({row["load"] for row in rows if "load" in row})
    return [loads[0], loads[-1]] if loads else []


def _processors(made: Mapping[str, str]) -> int:
    """Return the processors of the machine that made a report."""
    match = re.search(r"(\d+) cores", made["machine"])
    return 1 if match is None else int(match[1])


def estimate_target(rows: Sequence[Row], processors: int) -> dict[str, Any]:
    """Return the time, memory and disk of TARGET rows, from the measured sizes in proportion.

    With several sizes, the difference of the largest and the smallest one counts, so that work
    that does not grow with the log is left out.

    Args:
        processors: processes of rows that do not record their number.
    """
    prepared = [row for row in rows if row["case"] == "prepare, local"]
    featurised = [row for row in rows if row["case"] == "featurise" and row["stage"] != "fit"]
    workers = max((row["workers"] or processors for row in rows), default=processors)
    stages = [*_stages(prepared, workers), *_stages(featurised, workers)]
    memory = _largest(prepared, "main_mb")
    large = max((row["rows"] for row in prepared), default=0)
    disk = {
        name: _slope(_largest(prepared, f"{name}_mb")) * TARGET / 1e6 if prepared else 0.0
        for name in ("log", "data", "unfinished")
    }
    return {
        "target": TARGET,
        "processors": PROCESSORS,
        "workers": workers,
        "stages": stages,
        "hours": sum(stage["hours"] for stage in stages),
        "cluster_hours": sum(stage["cluster_hours"] for stage in stages),
        # In one size, the part that does not grow with the rows is unknown.
        "main_gb": _slope(memory) * TARGET / 1e3 if len(memory) > 1 else None,
        "peak_mb": max(_largest(prepared, "peak_mb").get(large, 0.0), 0.0) if prepared else 0.0,
        "largest": large,
        "disk_tb": disk,
    }


def _stages(rows: Sequence[Row], workers: int) -> Iterator[dict[str, Any]]:
    """Yield each stage with its seconds per million rows, and its hours for TARGET rows."""
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of_stage = [row for row in rows if row["stage"] == stage]
        seconds = _slope({row["rows"]: row["seconds"] for row in of_stage})
        hours = seconds * TARGET / 3600.0
        share = workers / PROCESSORS if stage in PARALLEL else 1.0
        yield {
            "stage": stage,
            "on_workers": stage in PARALLEL,
            "per_million": seconds * 1e6,
            "hours": hours,
            "cluster_hours": hours * share,
        }


def _largest(rows: Sequence[Row], column: str) -> dict[int, float]:
    """Return the largest value of a column over all stages, for each size."""
    sizes: dict[int, float] = {}
    for row in rows:
        sizes[row["rows"]] = max(sizes.get(row["rows"], 0.0), row[column])
    return sizes


def _slope(values: Mapping[int, float]) -> float:
    """Return the growth per row between the smallest and the largest size, at least 0."""
    small, large = min(values), max(values)
    if small == large:
        return values[large] / large
    return max(0.0, (values[large] - values[small]) / (large - small))
