"""The highest rate at which 99 of 100 requests are answered in time."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from loadtest import page
from loadtest.commands import Capacity
from loadtest.errors import PASSED, VOID
from loadtest.generators import Generators, generators
from loadtest.history_cache import CacheCounts
from loadtest.results import Load, RateResult, described, machine
from loadtest.scenarios import Scenario
from loadtest.server import ServerError
from loadtest.target import scenarios_of, target_url, with_settings

TRIES = 2  # at a rate
KEEPS_UP = 0.97  # responses per request, per second


@dataclass(frozen=True)
class Bound:
    """The condition on a rate, and the precision of the search."""

    p99_ms: float = 30.0
    precision: float = 0.04
    max_rps: float = 50_000.0


def broken(result: RateResult, bound: Bound) -> str | None:
    """Return the part of the bound that a rate breaks, or None."""
    if not result.samples:
        return "no request was due"
    report = result.report()
    if result.failed:
        return f"{result.failed} of {len(result.samples)} failed: {described(result.failures)}"
    if result.unranked:
        return f"{result.unranked} of {len(result.samples)} not ranked"
    if report["achieved_rps"] < KEEPS_UP * report["offered_rps"]:
        return "fell behind"
    p99_ms = result.latency_ms(0.99)
    return None if p99_ms <= bound.p99_ms else f"p99 {p99_ms:.1f} ms"


@dataclass
class CapacityResult:
    """Capacity (requests/s) of each finished search, and every run that was made for them.

    history_cache_hits: share of histories that were in the cache; None before the last search
    ended, or without histories.
    """

    rates: list[float] = field(default_factory=list)
    runs: list[RateResult] = field(default_factory=list)
    void: str | None = None
    history_cache_hits: float | None = None

    def report(self) -> dict[str, Any]:
        """Return mean and range for JSON, None without a finished search."""
        rates = self.rates
        return {
            "capacity_rps": round(float(np.mean(rates)), 1) if rates else None,
            "low": round(min(rates), 1) if rates else None,
            "high": round(max(rates), 1) if rates else None,
            "repeats": [round(rate, 1) for rate in rates],
            "void": self.void,
        }


def bisect(
    holds: Callable[[float], bool], start: float, bound: Bound, factor: float = 2.0
) -> float:
    """Return the highest rate that holds, within the precision; 0 when 1 per second does not.

    factor: step up, or down, from `start` until the rate lies between one that holds and one that
    does not.
    """
    low, high = 0.0, math.inf
    rate = start
    while high > low * (1 + bound.precision) and rate < bound.max_rps:
        if holds(rate):
            low = rate
        else:
            high = rate
        if high == math.inf:
            rate = factor * low
        elif low == 0.0:
            if high <= 1.0:
                return 0.0
            rate = high / factor
        else:
            rate = math.sqrt(low * high)
    return low


def capacity(
    load_generators: Generators,
    url: str,
    scenario: Scenario,
    bound: Bound,
    seconds: float = 4.0,
    repeats: int = 3,
    start: float = 100.0,
    progress: Callable[[str], None] = lambda text: None,
    result: CapacityResult | None = None,
) -> CapacityResult:
    """Search `repeats` times; each search after the first begins near the rate before it.

    result: filled on the way, for a caller that keeps it after an interrupt.

    Raises ServerError when the first run gets no expected response at all.
    """
    searched = CapacityResult() if result is None else result

    def holds(rate: float) -> bool:
        for _ in range(TRIES):
            load = Load(rate, seconds, warmup=min(1.0, seconds / 3), seed=len(searched.runs))
            run = load_generators.offer(url, scenario, load)
            searched.runs.append(run)
            reason = broken(run, bound)
            progress(f"{rate:.0f}/s {'holds' if reason is None else reason}")
            if reason is None:
                return True
            if len(searched.runs) == 1 and run.samples and run.failed == len(run.samples):
                raise ServerError(f"{url}: every request failed: {described(run.failures)}")
        if run.void:
            searched.void = run.void  # the service may do more than could be offered
        return False

    factor = 2.0
    for _ in range(repeats):
        rate = bisect(holds, start, bound, factor)
        searched.rates.append(rate)
        start, factor = max(1.0, 0.9 * rate), 1.2
    return searched


def write_capacity(options: Capacity, command_line: str) -> int:
    """Search in each scenario and write a page and a JSON file.

    After an interrupt the finished runs and searches are written. Raises KeyboardInterrupt then.
    """
    bound = Bound(options.p99_ms)
    scenarios = scenarios_of(options)
    results = [CapacityResult() for _ in scenarios]
    interrupt: KeyboardInterrupt | None = None
    try:
        with (
            target_url(options, adaptive_budget=str(options.adaptive_budget).lower()) as url,
            generators(options.generators) as load_generators,
            tqdm(desc="runs", unit="", disable=None) as bar,
        ):

            def progress(text: str) -> None:
                bar.set_postfix_str(text)
                bar.update()

            for scenario, searched in zip(scenarios, results, strict=True):
                counts = CacheCounts.of(url)
                capacity(
                    load_generators, url, scenario, bound, options.seconds, options.repeats,
                    progress=progress, result=searched,
                )  # fmt: skip
                searched.history_cache_hits = CacheCounts.of(url).share_since(counts)
    except KeyboardInterrupt as error:
        if not results[0].runs:
            raise
        interrupt = error
    first, *others = (
        section(scenario, searched) for scenario, searched in zip(scenarios, results, strict=True)
    )
    report = {
        "command": with_settings(command_line, options),
        "machine": machine(),
        "candidates": options.candidates,
        "workers": options.workers if options.url is None else None,
        "adaptive_budget": options.adaptive_budget if options.url is None else None,
        "p99_ms": bound.p99_ms,
        "interrupted": interrupt is not None,
        **first,
        "beside": others,
    }
    page.write(options.out, "capacity", report, page.bench(report, results[0].runs))
    print(json.dumps(page.without_runs(report), indent=1))
    print(f"loadtest capacity: the page is {options.out / 'capacity.html'}", file=sys.stderr)
    if interrupt is not None:
        raise interrupt
    return VOID if any(searched.void for searched in results) else PASSED


def section(scenario: Scenario, searched: CapacityResult) -> dict[str, Any]:
    """Return the figures of one scenario for JSON."""
    return {
        "scenario": scenario.name,
        "history_cache_hits": searched.history_cache_hits,
        **searched.report(),
        "runs": [run.report() for run in searched.runs],
    }
