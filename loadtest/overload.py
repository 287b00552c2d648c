"""Several times the capacity: ranked, reduced and shed requests, and their latency."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from loadtest import page
from loadtest.commands import Overload
from loadtest.errors import MISSED, PASSED, VOID
from loadtest.monitor import monitored
from loadtest.openloop import Sample, closed_loop, open_loop, run, run_until_interrupt
from loadtest.results import exhaustion, failures_of, hardware
from loadtest.scenarios import lists_with_deadline
from loadtest.server import serving

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
PATIENT_MS = 60_000.0  # deadline that sheds no request while the capacity is measured
WARM_UP_S, CAPACITY_S = 2.0, 6.0  # of the closed loop that measures the capacity
GRACE_S = 0.010  # a response may take this long beyond its deadline


def overload(options: Overload) -> int:
    """Measure and write overload.json, overload.md and overload.png.

    Raises KeyboardInterrupt after that if the overload was interrupted.
    """
    report, interrupt = measure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "overload.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    from loadtest import plots

    (options.out / "overload.md").write_text(page.render("overload.md", report=report), "utf-8")
    plots.overload(report, options.out / "overload.png")
    print(json.dumps(report["summary"] | {"response_ms": report["response_ms"]}, indent=1))
    if interrupt is not None:
        raise interrupt
    if report["void"]:
        print(f"void: {report['void']}")
        return VOID
    return MISSED if report["summary"]["unanswered"] else PASSED


def measure(options: Overload) -> tuple[dict[str, Any], KeyboardInterrupt | None]:
    """Measure the capacity, then offer the three phases.

    Returns the report, and the interrupt that ended the phases; the report is then of the overload
    until that. Raises KeyboardInterrupt for one in the first second of the overload or before it.
    """
    bodies = lists_with_deadline(
        options.bundle, options.candidates, options.timeout_ms, options.slates
    )
    patient = lists_with_deadline(options.bundle, options.candidates, PATIENT_MS, options.slates)
    settings: dict[str, object] = {"max_queue": options.max_queue}
    load_average = os.getloadavg()[0]
    with serving(
        options.bundle, adaptive_budget="false", timeout_ms=PATIENT_MS, **settings
    ) as server:
        run(closed_loop(server.url, patient, 16, WARM_UP_S))
        warm = run(closed_loop(server.url, patient, 16, CAPACITY_S))
        ranked = [s for s in warm if s.budget is not None]
        capacity = len(ranked) / max(s.ended for s in warm)
    with serving(options.bundle, **settings) as server:
        rates = (capacity / 4, options.factor * capacity, capacity / 4)
        phases = list(zip(rates, (options.rest, options.seconds, options.rest), strict=True))
        samples: list[Sample] = []
        with monitored(server) as entries:
            interrupt = run_until_interrupt(
                open_loop(server.url, bodies, phases, seed=0, into=samples)
            )
    if interrupt is not None:
        elapsed = max((s.due for s in samples), default=0.0) - options.rest
        if elapsed < 1.0 or not entries:
            raise interrupt
        options = replace(options, seconds=min(options.seconds, elapsed))
    report = {
        "command": "python -m loadtest overload",
        "machine": hardware(), "load_average": round(load_average, 2),
        "interrupted": interrupt is not None,
        "candidates": options.candidates, "slates": options.slates,
        "deadline_ms": options.timeout_ms, "max_queue": options.max_queue,
        "factor": options.factor,
        "phases": [{"rate": round(rate, 1), "seconds": seconds} for rate, seconds in phases],
        "summary": summary(samples, entries, options, capacity),
        "response_ms": response_times(loaded(samples, options)),
        "failures": dict(failures_of(samples)),
        "void": exhaustion(samples),
        "series": by_second(samples, entries),
    }  # fmt: skip
    return report, interrupt


def by_second(
    samples: Sequence[Sample], entries: Sequence[dict[str, float]]
) -> list[dict[str, Any]]:
    """Return, for each second, the requests that were due in it and how they were answered."""
    series = []
    for second in range(int(max(s.due for s in samples)) + 1):
        due = [s for s in samples if second <= s.due < second + 1]
        if not due:
            continue
        reasons = Counter(s.degraded for s in due)
        budgets = [s.budget for s in due if s.budget is not None]
        depths = [e["queue_depth"] for e in entries
                  if int(e["at"]) == second and "queue_depth" in e]  # fmt: skip
        series.append(
            {
                "second": second,
                "offered": len(due),
                "answered": sum(s.status != 0 for s in due),
                "full": reasons[None],
                "reduced_budget": reasons["reduced_budget"],
                "shed": reasons["overload"] + reasons["deadline"],
                "budget": round(float(np.mean(budgets)), 3) if budgets else None,
                "p99_ms": round(1e3 * float(np.quantile([s.latency_s for s in due], 0.99)), 2),
                "queue": depths[0] if depths else None,
            }
        )
    return series


def summary(
    samples: Sequence[Sample],
    entries: Sequence[dict[str, float]],
    options: Overload,
    capacity: float,
) -> dict[str, Any]:
    """Return the figures of the report; times count from the begin of the overload."""
    starts, ends = options.rest, options.rest + options.seconds
    overloaded = loaded(samples, options)
    latency = np.array([s.latency_s for s in overloaded])
    limit = options.timeout_ms / 1e3 + GRACE_S
    # At the time of the response: a list that is due at rest may meet the overload in the queue.
    reduced = [s.ended for s in samples if s.degraded == "reduced_budget" and s.due >= starts]
    shed = [s.ended for s in samples if s.degraded in ("overload", "deadline") and s.due >= starts]
    levels = [e["budget_level"] for e in entries if e["at"] > ends and "budget_level" in e]
    return {
        "capacity_per_s": round(capacity, 1),
        "offered_per_s": round(len(overloaded) / options.seconds, 1),
        "requests": len(samples),
        "unanswered": sum(s.status == 0 for s in samples),
        "other_than_200": sum(s.status not in (0, 200) for s in samples),
        "ranked_per_s": round(sum(s.budget is not None for s in overloaded) / options.seconds, 1),
        "p50_ms": round(1e3 * float(np.quantile(latency, 0.5)), 2),
        "p99_ms": round(1e3 * float(np.quantile(latency, 0.99)), 2),
        "deadline_ms": options.timeout_ms,
        "within_deadline_and_10_ms": round(float((latency <= limit).mean()), 5),
        "largest_queue": max(e.get("queue_depth", 0) for e in entries),
        "rss_growth": memory_growth(entries, starts, ends),
        "budget_falls_after_s": round(min(reduced) - starts, 3) if reduced else None,
        "first_shed_after_s": round(min(shed) - starts, 3) if shed else None,
        "level_at_the_end": levels[-1] if levels else None,
    }


def loaded(samples: Sequence[Sample], options: Overload) -> list[Sample]:
    """Return the requests that were due in the overload."""
    return [s for s in samples if options.rest <= s.due < options.rest + options.seconds]


def response_times(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Return, for each kind of response, its number and quantiles of its latency in ms.

    "shed" are the initial rankings; "overload" those shed at admission or for lack of room,
    "deadline" those whose deadline passed in the queue or during the run.
    """
    answered = [s for s in samples if s.status == 200]
    kinds = {
        "ranked": [s for s in answered if s.budget is not None],
        "shed": [s for s in answered if s.degraded in ("overload", "deadline")],
        "overload": [s for s in answered if s.degraded == "overload"],
        "deadline": [s for s in answered if s.degraded == "deadline"],
    }
    return {kind: distribution(each) for kind, each in kinds.items()}


def distribution(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the number of samples and the quantiles of their latency in ms, None of no sample."""
    latency = [1e3 * s.latency_s for s in samples]
    shares = list(QUANTILES.values())
    values = np.quantile(latency, shares).round(2).tolist() if latency else [None] * len(shares)
    return {"responses": len(latency), **dict(zip(QUANTILES, values, strict=True))}


def memory_growth(entries: Sequence[dict[str, float]], starts: float, ends: float) -> float | None:
    """Return the relative growth of memory from 5-15 s of the overload to its last 10 s."""
    windows = ((starts + 5, starts + 15), (ends - 10, ends))
    first, last = ([e["rss_mb"] for e in entries if low <= e["at"] < high] for low, high in windows)
    if not first or not last:
        return None
    return round(float(np.mean(last) / np.mean(first) - 1), 4)
