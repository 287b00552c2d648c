"""Growth of memory over a long run at a share of the capacity."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.commands import Soak
from loadtest.errors import MISSED, PASSED, VOID
from loadtest.monitor import monitored
from loadtest.openloop import closed_loop, open_loop, run
from loadtest.results import exhaustion, failures_of, hardware
from loadtest.scenarios import lists_with_deadline
from loadtest.server import serving

TIMEOUT_MS = 1000.0  # of each list; the service caps it at RERANK_TIMEOUT_MS
BLOCKS = 10
T_95 = 2.306  # 97.5 % quantile of Student's t with BLOCKS - 2 degrees of freedom


def soak(options: Soak) -> int:
    """Measure and write the report."""
    report = measure(options)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    if report["void"]:
        return VOID
    return MISSED if report["unanswered"] else PASSED


def measure(options: Soak) -> dict[str, Any]:
    """Measure the capacity at the full budget, fill all pools with an overload, then soak."""
    bodies = lists_with_deadline(options.bundle, options.candidates, TIMEOUT_MS)
    with serving(options.bundle, adaptive_budget="false") as server:
        run(closed_loop(server.url, bodies, 4, 2.0))
        warm = run(closed_loop(server.url, bodies, 4, 6.0))
        capacity = len(warm) / max(sample.ended for sample in warm)
    with serving(options.bundle) as server:
        run(open_loop(server.url, bodies, [(2 * capacity, options.fill)], seed=1))
        with monitored(server) as entries:
            rate = options.share * capacity
            samples = run(open_loop(server.url, bodies, [(rate, options.seconds)], seed=0))
    minutes = []
    for minute in range(max(1, int(options.seconds // 60))):
        latency = [s.latency_s for s in samples if 60 * minute <= s.due < 60 * minute + 60]
        minutes.append(1e3 * float(np.quantile(latency, 0.99)))
    settled = [e for e in entries if e["at"] >= options.seconds / 2]
    at = np.array([e["at"] for e in settled]) / 60
    slope, low, high = trend(at, np.array([e["rss_mb"] for e in settled]))
    return {
        "command": f"python -m loadtest soak --seconds {options.seconds:g}",
        "machine": f"{hardware()}, shared with the generator",
        "capacity_per_s": round(capacity, 1),
        "offered_per_s": round(len(samples) / options.seconds, 1),
        "requests": len(samples),
        "unanswered": sum(s.status != 200 for s in samples),
        "failures": dict(failures_of(samples)),
        "void": exhaustion(samples),
        "p99_ms_by_minute": [round(p99, 2) for p99 in minutes],
        "p99_last_over_second_minute": round(minutes[-1] / minutes[min(1, len(minutes) - 1)], 3),
        "rss_mb": [round(e["rss_mb"], 2) for e in (entries[0], settled[0], settled[-1])],
        "rss_slope_mb_per_minute": [round(slope, 4), round(low, 4), round(high, 4)],
        "rss_mb_by_20_s": [round(e["rss_mb"], 2) for e in entries[::20]],
    }


def trend(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[float, float, float]:
    """Return the slope of y over x and its 95 % interval over blocks of a tenth of the time.

    Neighbouring samples of memory are alike, so blocks, not samples, vary by chance.
    """
    blocks = np.array_split(np.arange(len(x)), BLOCKS)
    bx = np.array([x[block].mean() for block in blocks])
    by = np.array([y[block].mean() for block in blocks])
    slope, intercept = np.polyfit(bx, by, 1)
    residual = by - slope * bx - intercept
    spread = np.sqrt((residual**2).sum() / (BLOCKS - 2) / ((bx - bx.mean()) ** 2).sum())
    return float(slope), float(slope - T_95 * spread), float(slope + T_95 * spread)
