"""python -m loadtest bench: what a request takes at a given rate, in an open loop.

Poisson arrivals from processes of their own; latency counts from when a request was due. A run
whose generator was the bottleneck is void, and says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest import page
from loadtest.openloop import Sample, poisson, run
from loadtest.scenarios import MAKERS, Asking, Catalogue, Scenario, scenario
from loadtest.server import ServerError, serving

BUSY = 0.85  # share of a core above which a generator may have been the bottleneck
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Load:
    """Requests per second, for how long (s), how much of it warms up (s), by how many processes."""

    rate: float
    seconds: float
    warmup: float = 1.0
    generators: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Offered:
    """The samples after the warm-up, and what the generators were like.

    busy: the largest share of a core that one used; lag_ms: how late they sent, 99 % of requests.
    """

    load: Load
    samples: Sequence[Sample]
    busy: float
    lag_ms: float
    expected: Sequence[int] = (200,)

    @property
    def void(self) -> str | None:
        """Why the run says nothing of the service."""
        if self.busy > BUSY:
            return f"a generator used {self.busy:.0%} of a core"
        if not self.samples:
            return "no request was due"
        return None

    def latency_ms(self, quantile: float) -> float:
        """Of all that was due, unanswered included as long as they waited."""
        return 1e3 * float(np.quantile([s.latency_s for s in self.samples], quantile))

    @property
    def failed(self) -> int:
        """Unanswered, or with a status that was not expected."""
        return sum(s.status not in self.expected for s in self.samples)

    @property
    def unranked(self) -> int:
        """Answered with the initial ranking."""
        return sum(s.degraded not in (None, "reduced_budget") for s in self.samples)

    def report(self) -> dict[str, Any]:
        """The figures, as JSON has them."""
        served = [s for s in self.samples if s.status in self.expected]
        ranked = [s for s in served if s.budget is not None]
        # Until the last answer: what piled up takes its time.
        took = max([self.load.seconds, *(s.ended - self.load.warmup for s in self.samples)])
        reasons = Counter(s.degraded for s in served if s.degraded)

        def mean(values: Sequence[float]) -> float | None:
            return round(float(np.mean(values)), 3) if values else None

        return {
            "asked_rps": round(self.load.rate, 1),
            "offered_rps": round(len(self.samples) / self.load.seconds, 1),
            "achieved_rps": round(len(served) / took, 1),
            "requests": len(self.samples),
            "failed": self.failed,
            "unranked": self.unranked,
            "degraded": dict(reasons),
            "latency_ms": {f"p{100 * q:g}": round(self.latency_ms(q), 3) for q in QUANTILES}
            if self.samples
            else {},
            "mean_ms": mean([1e3 * s.latency_s for s in self.samples]),
            "queue_ms": mean([s.queue_ms for s in ranked]),
            "inference_ms": mean([s.inference_ms for s in ranked]),
            "steps_used": mean([s.steps for s in ranked]),
            "budget": mean([float(s.budget) for s in ranked if s.budget is not None]),
            "generator": {"busy": round(self.busy, 3), "lag_p99_ms": round(self.lag_ms, 3)},
            "void": self.void,
        }


def part(
    url: str, asked: Scenario, rate: float, seconds: float, seed: int, begin: float
) -> tuple[list[Sample], float]:
    """One generator process: its samples, and the share of a core it used while it sent."""
    loads: list[float] = []

    async def measured() -> list[Sample]:
        before, at = time.process_time(), time.monotonic()
        found = await poisson(
            url, asked.bodies, [(rate, seconds)], seed, asked.path, begin, asked.kind
        )
        loads.append((time.process_time() - before) / (time.monotonic() - at))
        return found

    return run(measured()), loads[0]


class Generators:
    """Processes that offer load; kept, since each takes a second to start."""

    def __init__(self, count: int) -> None:
        self.count = count
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=spawn)
        for waited in [self._pool.submit(time.sleep, 0.2) for _ in range(count)]:
            waited.result()

    def offer(self, url: str, asked: Scenario, load: Load) -> Offered:
        """Offer a load; what is due in the warm-up is left out."""
        begin = time.monotonic() + 0.05
        whole = load.warmup + load.seconds
        parts = [
            self._pool.submit(
                part, url, asked, load.rate / self.count, whole, load.seed * 1000 + i, begin
            )
            for i in range(self.count)
        ]
        found = [each.result() for each in parts]
        samples = [s for own, _ in found for s in own if s.due >= load.warmup]
        lags = [1e3 * (s.sent - s.due) for s in samples] or [0.0]
        busy = max(share for _, share in found)
        return Offered(load, samples, busy, float(np.quantile(lags, 0.99)), asked.expected)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def generators(count: int) -> Iterator[Generators]:
    """Generators that are closed at the end."""
    found = Generators(count)
    try:
        yield found
    finally:
        found.close()


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, shared by service and generator"


def command(name: str, arguments: Sequence[str], url: str | None) -> str:
    """What was called, with the settings that a service started for it found in the environment."""
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("RERANK_"))
    return " ".join([*(settings if url is None else ()), "python -m loadtest", name, *arguments])


@contextlib.contextmanager
def target(asked: argparse.Namespace, **settings: object) -> Iterator[str]:
    """The URL that was asked for, or that of a service started for it."""
    if asked.url is not None:
        yield asked.url.rstrip("/")
        return
    with serving(asked.bundle, f"--workers={asked.workers}", **settings) as server:
        yield server.url


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that offers load is told."""
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"),
                        help="to serve, and to take item ids from")  # fmt: skip
    parser.add_argument("--url", help="of a service that runs; else one is started")
    parser.add_argument("--workers", type=int, default=1, help="of the service that is started")
    parser.add_argument("--scenario", choices=[*MAKERS], default="ids", help="what is asked")
    parser.add_argument("--candidates", type=int, default=50, help="of each list")
    parser.add_argument("--generators", type=int, default=1, help="processes that send")


def scenario_of(asked: argparse.Namespace) -> Scenario:
    """The scenario of a command line. Raises ValueError naming what does not fit."""
    catalogue = Catalogue.of(asked.bundle)
    most = min(len(catalogue.ids), catalogue.longest)
    if not 1 <= asked.candidates <= most:
        raise ValueError(f"--candidates: 1 to {most}, the bundle's, got {asked.candidates}")
    return scenario(asked.scenario, catalogue, Asking(asked.candidates))


def positive(text: str) -> float:
    """A number above 0. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0, got {text!r}")
    return number


def main(arguments: Sequence[str]) -> int:
    """Offer the rates one after the other; exit status 1 where a run is void or a request fails."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest bench", description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add_arguments(parser)
    parser.add_argument(
        "--rate", type=positive, nargs="+", default=[100, 300, 600], help="per second"
    )
    parser.add_argument("--seconds", type=positive, default=10.0, help="at each rate")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds before, left out")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where to write")
    asked = parser.parse_args(arguments)
    try:
        what = scenario_of(asked)
        with target(asked) as url, generators(asked.generators) as sending:
            found = [
                sending.offer(url, what, Load(rate, asked.seconds, asked.warmup, seed=i))
                for i, rate in enumerate(asked.rate)
            ]
    except (OSError, KeyError, ValueError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    report = {
        "command": command("bench", arguments, asked.url),
        "machine": machine(),
        "scenario": asked.scenario,
        "candidates": asked.candidates,
        "workers": asked.workers if asked.url is None else None,
        "runs": [each.report() for each in found],
    }
    page.write(asked.out, "bench", report, page.bench(report, found))
    print(json.dumps(report, indent=1))
    print(f"loadtest: the page is {asked.out / 'bench.html'}", file=sys.stderr)
    if all(each.failed == len(each.samples) for each in found):
        print(f"loadtest: nothing was answered as it should be by {url}", file=sys.stderr)
    return 1 if any(each.void or each.failed for each in found) else 0
