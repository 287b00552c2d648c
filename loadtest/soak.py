"""Growth of memory over a long run at a share of the capacity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.commands import Soak
from loadtest.errors import MISSED, PASSED, VOID
from loadtest.monitor import monitored
from loadtest.openloop import Sample, closed_loop, open_loop, run, run_until_interrupt
from loadtest.results import exhaustion, failures_of, hardware
from loadtest.scenarios import lists_with_deadline
from loadtest.server import serving

TIMEOUT_MS = 1000.0  # of each list; the service caps it at RERANK_TIMEOUT_MS
WARM_UP_S, CAPACITY_S = 2.0, 6.0  # of the closed loop that measures the capacity
MINUTE_S = 60.0
BLOCKS = 10
MIN_ENTRIES = 2 * BLOCKS + 4  # of which a half has one for each block
T_95 = 2.306  # 97.5 % quantile of Student's t with BLOCKS - 2 degrees of freedom


def soak(options: Soak) -> int:
    """Measure and write the report; raises KeyboardInterrupt after that if it was interrupted."""
    report, interrupt = measure(options)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    if interrupt is not None:
        raise interrupt
    if report["void"]:
        return VOID
    return MISSED if report["unanswered"] else PASSED


def measure(options: Soak) -> tuple[dict[str, Any], KeyboardInterrupt | None]:
    """Measure the capacity at the full budget, fill all pools with an overload, then soak.

    Returns the report, and the interrupt that ended the soak. Raises KeyboardInterrupt for one
    after so few samples of memory that they have no trend.
    """
    bodies = lists_with_deadline(options.bundle, options.candidates, TIMEOUT_MS)
    with serving(options.bundle, adaptive_budget="false") as server:
        run(closed_loop(server.url, bodies, 4, WARM_UP_S))
        warm = run(closed_loop(server.url, bodies, 4, CAPACITY_S))
        capacity = len(warm) / max(sample.ended for sample in warm)
    samples: list[Sample] = []
    phases = [(options.share * capacity, options.seconds)]
    with serving(options.bundle) as server:
        run(open_loop(server.url, bodies, [(2 * capacity, options.fill)], seed=1))
        with monitored(server) as entries:
            interrupt = run_until_interrupt(
                open_loop(server.url, bodies, phases, seed=0, into=samples)
            )
    seconds = options.seconds
    if interrupt is not None:
        if not samples or len(entries) < MIN_ENTRIES:
            raise interrupt
        seconds = max(sample.due for sample in samples)
    return report_of(options, samples, entries, capacity, seconds, interrupt is not None), interrupt


def report_of(
    options: Soak,
    samples: Sequence[Sample],
    entries: Sequence[dict[str, float]],
    capacity: float,
    seconds: float,
    interrupted: bool,
) -> dict[str, Any]:
    """Return the report for JSON. seconds: of the soak, the requested ones or fewer."""
    minutes = []
    for minute in range(max(1, int(seconds // MINUTE_S))):
        starts = MINUTE_S * minute
        latency = [s.latency_s for s in samples if starts <= s.due < starts + MINUTE_S]
        minutes.append(1e3 * float(np.quantile(latency, 0.99)))
    settled = [e for e in entries if e["at"] >= seconds / 2]
    at = np.array([e["at"] for e in settled]) / 60
    slope, low, high = trend(at, np.array([e["rss_mb"] for e in settled]))
    return {
        "command": f"python -m loadtest soak --seconds {options.seconds:g}",
        "machine": f"{hardware()}, shared with the generator",
        "interrupted": interrupted,
        "capacity_per_s": round(capacity, 1),
        "offered_per_s": round(len(samples) / seconds, 1),
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
