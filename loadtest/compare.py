"""Differences between two reports of bench or capacity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.commands import Compare
from loadtest.errors import MISSED, PASSED, UsageError

SAME_QUESTION = ("scenario", "candidates", "p99_ms", "adaptive_budget")


@dataclass(frozen=True)
class Row:
    """One figure of both reports."""

    name: str
    before: float
    after: float
    more_is_better: bool

    @property
    def ratio(self) -> float:
        """The second figure over the first."""
        if self.before:
            return self.after / self.before
        return math.inf if self.after else 1.0

    @property
    def loss(self) -> float:
        """The factor by which the second figure is worse."""
        if not self.more_is_better:
            return self.ratio
        return 1 / self.ratio if self.ratio else math.inf


def compare(options: Compare) -> int:
    """Print both reports' figures; return MISSED where the second is worse beyond the tolerance."""
    before, after = (read(path) for path in (options.before, options.after))
    require_same_question(before, after)
    rows = rows_of(before, after)
    for name in ("machine", "workers"):
        if before.get(name) != after.get(name):
            print(f"differs: {name}: {before.get(name)} -> {after.get(name)}")
    width = max(len(row.name) for row in rows)
    print(f"{'':{width}}  {'before':>10}  {'after':>10}  {'ratio':>7}")
    # Repeats of a capacity show its noise: where the ranges overlap, nothing got worse.
    apart = "low" not in before or after["high"] < before["low"]
    worse = [row for row in rows if row.loss > 1 + options.tolerance and apart]
    for row in rows:
        mark = " worse" if row in worse else ""
        print(f"{row.name:{width}}  {row.before:10.3f}  {row.after:10.3f}  {row.ratio:7.3f}{mark}")
    for line in notes(before, after, options):
        print(line)
    return MISSED if worse else PASSED


def notes(before: Mapping[str, Any], after: Mapping[str, Any], options: Compare) -> list[str]:
    """Return remarks: unknown noise without repeats, and rates that one report lacks."""
    lines = []
    if "capacity_rps" in before:
        single = [
            path
            for path, report in ((options.before, before), (options.after, after))
            if len(report.get("repeats", (1,))) == 1
        ]
        if single:
            names = " and ".join(map(str, single))
            lines.append(
                f"noise unknown: {names}: one search each, so the difference may be the machine's; "
                "measure both with --repeats 3"
            )
    else:
        lines.append(
            "noise unknown: bench runs each rate once, so a difference may be the machine's; "
            "compare capacities, whose repeats show it"
        )
        rates = [{run["asked_rps"] for run in report["runs"]} for report in (before, after)]
        for path, rates_here, rates_there in (
            (options.before, rates[0], rates[1]),
            (options.after, rates[1], rates[0]),
        ):
            if alone := sorted(rates_here - rates_there):
                lines.append(f"only in {path}: {', '.join(f'{rate:g}/s' for rate in alone)}")
    return lines


def read(path: Path) -> dict[str, Any]:
    """Read a report. Raises OSError, or UsageError naming the file that is none."""
    try:
        report = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(report, dict) or "runs" not in report:
        raise UsageError(f"{path}: not a report of bench or capacity: it has no runs")
    if "capacity_rps" in report and report["capacity_rps"] is None:
        raise UsageError(f"{path}: capacity was interrupted before one search ended; measure again")
    return report


def require_same_question(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise UsageError for reports that measured different things."""
    for name in SAME_QUESTION:
        if before.get(name) != after.get(name):
            raise UsageError(f"{name} differs: {before.get(name)} and {after.get(name)}")
    if ("capacity_rps" in before) != ("capacity_rps" in after):
        raise UsageError("one is a report of capacity, the other of bench")


def rows_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Row]:
    """Return the figures that both reports have. Raises UsageError when no rate is in both."""
    if "capacity_rps" in before:
        return [Row("capacity, per s", before["capacity_rps"], after["capacity_rps"], True)]
    first, second = ({run["asked_rps"]: run for run in r["runs"]} for r in (before, after))
    rows = []
    for rate in sorted(first.keys() & second.keys()):
        pair = (first[rate], second[rate])
        for name in ("p50", "p99"):
            old, new = (run["latency_ms"].get(name, math.nan) for run in pair)
            rows.append(Row(f"{name} ms at {rate:g}/s", old, new, more_is_better=False))
        old, new = (float(run.get("failed", 0) + run.get("unranked", 0)) for run in pair)
        rows.append(Row(f"not ranked at {rate:g}/s", old, new, more_is_better=False))
        old, new = (run["achieved_rps"] for run in pair)
        rows.append(Row(f"answered/s at {rate:g}/s", old, new, more_is_better=True))
    if not rows:
        raise UsageError(f"no rate is in both: {sorted(first)} and {sorted(second)}")
    return rows
