"""Processes that offer load in an open loop."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from loadtest.openloop import Sample, poisson, run
from loadtest.results import Load, Offered
from loadtest.scenarios import Scenario


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
