"""python -m loadtest compare A.json B.json: what changed between two reports.

Capacities, or the latencies of each rate that is in both. B is worse where it loses more than the
tolerance, and a capacity only where the ranges of the repeats do not overlap either.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Print both; exit status 1 where B is worse by more than the tolerance."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest compare", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("before", type=Path, help="a report of bench or capacity")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--tolerance", type=float, default=0.1, help="by how much B may be worse")
    asked = parser.parse_args(arguments)
    try:
        before, after = (read(path) for path in (asked.before, asked.after))
        rows = compared(before, after)
    except (OSError, ValueError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    for name in ("machine", "workers"):
        if before.get(name) != after.get(name):
            print(f"differs: {name}: {before.get(name)} -> {after.get(name)}")
    width = max(len(name) for name, *_ in rows)
    print(f"{'':{width}}  {'before':>10}  {'after':>10}  {'ratio':>7}")
    worse = []
    for name, old, new, more_is_better in rows:
        ratio = new / old if old else math.inf if new else 1.0
        loss = (1 / ratio if ratio else math.inf) if more_is_better else ratio
        apart = "low" not in before or "high" not in after or after["high"] < before["low"]
        if loss > 1 + asked.tolerance and apart:
            worse.append(name)
        print(f"{name:{width}}  {old:10.3f}  {new:10.3f}  {ratio:7.3f}{' worse' * (name in worse)}")
    return 1 if worse else 0


def read(path: Path) -> dict[str, Any]:
    """A report. Raises OSError, or ValueError naming the file that is none."""
    try:
        report = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(report, dict) or "runs" not in report:
        raise ValueError(f"{path}: no report of bench or capacity: it has no runs")
    return report


def compared(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[tuple[str, float, float, bool]]:
    """Name, both figures, and whether more is better. Raises ValueError where nothing is shared."""
    rows: list[tuple[str, float, float, bool]] = []
    for name in ("scenario", "candidates", "p99_ms", "adaptive_budget"):
        if before.get(name) != after.get(name):
            raise ValueError(f"{name} differs: {before.get(name)} and {after.get(name)}")
    if ("capacity_rps" in before) != ("capacity_rps" in after):
        raise ValueError("one is a report of capacity, the other of bench")
    if "capacity_rps" in before:
        return [("capacity, per s", before["capacity_rps"], after["capacity_rps"], True)]
    runs = [{run["asked_rps"]: run for run in report["runs"]} for report in (before, after)]
    for rate in sorted(set(runs[0]) & set(runs[1])):
        old, new = runs[0][rate], runs[1][rate]
        for quantile in ("p50", "p99"):
            figures = [run["latency_ms"][quantile] for run in (old, new)]
            rows.append((f"{quantile} ms at {rate:g}/s", *figures, False))
        lost = [float(run.get("failed", 0) + run.get("unranked", 0)) for run in (old, new)]
        rows.append((f"not ranked at {rate:g}/s", *lost, False))
        rows.append((f"answered/s at {rate:g}/s", old["achieved_rps"], new["achieved_rps"], True))
    if not rows:
        raise ValueError(f"no rate is in both: {sorted(runs[0])} and {sorted(runs[1])}")
    return rows
