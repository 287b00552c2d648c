"""python -m loadtest soak: ten minutes at 70 % of capacity; does anything grow?

Poisson arrivals of ids alone; resident memory about once a second. Writes soak.json.

Before it, more than the service can do for half a minute: then queue and runs have been about as
large as they get. The slope is of the second half of the time, when a last record of waiting lists
is set and what still grows is a leak; the whole series stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.openloop import closed, poisson, run
from loadtest.overload import lists, watched
from loadtest.server import ServerError, serving


def main(arguments: Sequence[str]) -> int:
    """Measure and write; exit status 1 where a request was not answered."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest soak", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"), help="to serve")
    parser.add_argument("--seconds", type=float, default=600.0, help="at load")
    parser.add_argument("--fill", type=float, default=30.0, help="seconds of overload before it")
    parser.add_argument("--share", type=float, default=0.7, help="of capacity")
    parser.add_argument("--candidates", type=int, default=50, help="of each list")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/soak.json"), help="where")
    asked = parser.parse_args(arguments)
    asked.slates, asked.timeout_ms = 1, 1000.0
    try:
        report = measure(asked)
    except (OSError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    asked.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return 1 if report["unanswered"] else 0


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Capacity at the full budget, what fills all pools, then the load."""
    bodies = lists(asked)
    with serving(asked.bundle, adaptive_budget="false") as server:
        run(closed(server.url, bodies, 4, 2.0))
        found = run(closed(server.url, bodies, 4, 6.0))
        capacity = len(found) / max(sample.ended for sample in found)
    with serving(asked.bundle) as server:
        run(poisson(server.url, bodies, [(2 * capacity, asked.fill)], seed=1))
        with watched(server) as seen:
            rate = asked.share * capacity
            samples = run(poisson(server.url, bodies, [(rate, asked.seconds)], seed=0))
    minutes = []
    for minute in range(max(1, int(asked.seconds // 60))):
        own = [s.latency_s for s in samples if 60 * minute <= s.due < 60 * minute + 60]
        minutes.append(1e3 * float(np.quantile(own, 0.99)))
    settled = [e for e in seen if e["at"] >= asked.seconds / 2]
    at = np.array([e["at"] for e in settled]) / 60
    slope, low, high = trend(at, np.array([e["rss_mb"] for e in settled]))
    return {
        "command": f"python -m loadtest soak --seconds {asked.seconds:g}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with the generator",
        "capacity_per_s": round(capacity, 1),
        "offered_per_s": round(len(samples) / asked.seconds, 1),
        "requests": len(samples),
        "unanswered": sum(s.status != 200 for s in samples),
        "p99_ms_by_minute": [round(p99, 2) for p99 in minutes],
        "p99_last_over_second_minute": round(minutes[-1] / minutes[min(1, len(minutes) - 1)], 3),
        "rss_mb": [round(e["rss_mb"], 2) for e in (seen[0], settled[0], settled[-1])],
        "rss_slope_mb_per_minute": [round(slope, 4), round(low, 4), round(high, 4)],
        "rss_mb_by_20_s": [round(e["rss_mb"], 2) for e in seen[::20]],
    }


def trend(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """The slope of y over x and its 95 % interval over blocks of a tenth of the time.

    Neighbouring looks at memory are alike, so blocks, not looks, are what varies by chance.
    """
    blocks = np.array_split(np.arange(len(x)), 10)
    bx = np.array([x[block].mean() for block in blocks])
    by = np.array([y[block].mean() for block in blocks])
    slope, intercept = np.polyfit(bx, by, 1)
    residual = by - slope * bx - intercept
    spread = np.sqrt((residual**2).sum() / 8 / ((bx - bx.mean()) ** 2).sum())
    return float(slope), float(slope - 2.306 * spread), float(slope + 2.306 * spread)  # t, 8 df
