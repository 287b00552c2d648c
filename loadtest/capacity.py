"""python -m loadtest capacity: the highest rate at which 99 of 100 requests are answered in time.

An open loop at one rate after the other: doubled until it does not hold, then by bisection, the
whole search several times. A rate holds when p99 is within the bound, no request fails, none gets
the initial ranking, and answers keep up with what is offered; in one of two tries, since a stall of
the machine of 50 ms is in more than one of a hundred requests of such a short run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from loadtest import page
from loadtest.bench import add_arguments, command, positive, scenario_of, target
from loadtest.generators import Generators, generators
from loadtest.results import Load, Offered, machine
from loadtest.scenarios import Scenario
from loadtest.server import ServerError

TRIES = 2  # at a rate
KEEPS_UP = 0.97  # answered of offered, per second


@dataclass(frozen=True)
class Bound:
    """What must hold, and how closely the rate is searched for."""

    p99_ms: float = 30.0
    precision: float = 0.04
    most_rps: float = 50_000.0


def broken(found: Offered, bound: Bound) -> str | None:
    """What of the bound the service did not keep, or None."""
    if not found.samples:
        return "no request was due"
    report = found.report()
    if found.failed:
        return f"{found.failed} of {len(found.samples)} failed"
    if found.unranked:
        return f"{found.unranked} of {len(found.samples)} not ranked"
    if report["achieved_rps"] < KEEPS_UP * report["offered_rps"]:
        return "fell behind"
    p99_ms = found.latency_ms(0.99)
    return None if p99_ms <= bound.p99_ms else f"p99 {p99_ms:.1f} ms"


@dataclass
class Found:
    """Capacity (requests/s) of each search, and every run that was made for them."""

    rates: list[float] = field(default_factory=list)
    runs: list[Offered] = field(default_factory=list)
    void: str | None = None

    def report(self) -> dict[str, Any]:
        """Mean, and the least and greatest."""
        return {
            "capacity_rps": round(float(np.mean(self.rates)), 1),
            "low": round(min(self.rates), 1),
            "high": round(max(self.rates), 1),
            "repeats": [round(rate, 1) for rate in self.rates],
            "void": self.void,
        }


def bisect(
    holding: Callable[[float], bool], start: float, bound: Bound, factor: float = 2.0
) -> float:
    """The highest rate that holds, within the precision; 0 where not even 1 per second does.

    factor: how far to go up, or down, from `start` until it is between one that holds and one not.
    """
    low, high = 0.0, math.inf
    rate = start
    while high > low * (1 + bound.precision) and rate < bound.most_rps:
        if holding(rate):
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
    sending: Generators,
    url: str,
    asked: Scenario,
    bound: Bound,
    seconds: float = 4.0,
    repeats: int = 3,
    start: float = 100.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Found:
    """Search `repeats` times; each after the first begins near what the one before found.

    Raises ServerError where the first run gets no answer at all.
    """
    found = Found()

    def holding(rate: float) -> bool:
        for _ in range(TRIES):
            load = Load(rate, seconds, warmup=min(1.0, seconds / 3), seed=len(found.runs))
            run = sending.offer(url, asked, load)
            found.runs.append(run)
            why = broken(run, bound)
            progress(f"{rate:.0f}/s {'holds' if why is None else why}")
            if why is None:
                return True
            if len(found.runs) == 1 and run.samples and run.failed == len(run.samples):
                raise ServerError(f"{url}: no request was answered as it should be")
        if run.void:
            found.void = run.void  # more may be in the service than could be offered
        return False

    factor = 2.0
    for _ in range(repeats):
        rate = bisect(holding, start, bound, factor)
        found.rates.append(rate)
        start, factor = max(1.0, 0.9 * rate), 1.2
    return found


def main(arguments: Sequence[str]) -> int:
    """Search and write; exit status 1 where the generator was the bottleneck."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest capacity", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument("--p99-ms", type=positive, default=30.0, help="the bound")
    parser.add_argument("--seconds", type=positive, default=4.0, help="at each rate")
    parser.add_argument("--repeats", type=int, default=3, help="of the whole search")
    parser.add_argument("--adaptive-budget", action="store_true",
                        help="let the service reason less under load")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("build/capacity"), help="where to write")
    asked = parser.parse_args(arguments)
    bound = Bound(asked.p99_ms)
    try:
        what = scenario_of(asked)
        adaptive = str(asked.adaptive_budget).lower()
        with (
            target(asked, adaptive_budget=adaptive) as url,
            generators(asked.generators) as sending,
            tqdm(desc="runs", unit="") as bar,
        ):

            def told(text: str) -> None:
                bar.set_postfix_str(text)
                bar.update()

            found = capacity(sending, url, what, bound, asked.seconds, asked.repeats, progress=told)
    except (OSError, KeyError, ValueError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    report = {
        "command": command("capacity", arguments, asked.url),
        "machine": machine(),
        "scenario": asked.scenario,
        "candidates": asked.candidates,
        "workers": asked.workers if asked.url is None else None,
        "adaptive_budget": asked.adaptive_budget if asked.url is None else None,
        "p99_ms": bound.p99_ms,
        **found.report(),
        "runs": [run.report() for run in found.runs],
    }
    page.write(asked.out, "capacity", report, page.bench(report, found.runs))
    print(json.dumps({k: v for k, v in report.items() if k != "runs"}, indent=1))
    print(f"loadtest: the page is {asked.out / 'capacity.html'}", file=sys.stderr)
    return 1 if found.void else 0
