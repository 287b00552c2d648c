"""A batcher over a session that a test holds and releases, on a clock that a test advances."""

import asyncio
import threading
from types import SimpleNamespace
from typing import cast

import numpy as np

from service.batching.batcher import Batcher
from service.batching.budget import Forecast
from service.engine.collate import ModelError
from service.engine.constraints import SlateConstraints
from service.engine.rows import Row, Slate, Timing
from service.engine.session import Session
from service.metrics import Metrics
from service.settings import Settings
from tests.support.clock import FakeClock

FAILING = 9  # the slate size of a row that the session fails on
QUICK = [Timing(b, volume, 1e-6 * volume * (1 + b)) for b in (0, 3) for volume in (1, 100)]


class HeldSession:
    """Stands in for a session: every run waits until `released` is set."""

    def __init__(self, provider="CPUExecutionProvider"):
        self.manifest, self.graph_cpu_s = SimpleNamespace(budget=3), 0.0
        self.provider = provider
        self.released = threading.Event()
        self.sizes, self.rows, self.threads = [], [], []  # of each run
        self._loop, self._started = asyncio.get_running_loop(), asyncio.Event()

    async def started(self):
        """Wait until a run has begun."""
        await asyncio.wait_for(self._started.wait(), 10)

    def run(self, rows):
        self._loop.call_soon_threadsafe(self._started.set)
        assert self.released.wait(10), "the test did not release the session"
        self.threads.append(threading.current_thread())
        self.sizes.append(len(rows))
        self.rows.append(rows)
        if any(row.slate_size == FAILING for row in rows):
            raise ModelError("planted")
        zeros = np.zeros(1, np.float32)
        return [Slate(np.array([0]), zeros, zeros, zeros, np.array([0])) for _ in rows]


def make_row(size=1, candidates=9, budget=3, sampling=None):
    numbers, tokens = np.zeros((candidates, 1), np.float32), np.zeros((candidates, 1), np.int64)
    constraints = SlateConstraints.none(candidates, size)
    return Row(numbers, tokens, size, budget, 0.0, 1.5, 0.7, constraints, sampling)


class Harness:
    """A started batcher with its session, clock and metrics."""

    def __init__(self, provider="CPUExecutionProvider", timings=QUICK, **settings):
        # Each run has a thread of its own, or a held session would stop the event loop.
        limits = {"max_batch_size": 4, "max_queue": 8, "brief_run_ms": 0}
        self.session, self.clock, self.metrics = HeldSession(provider), FakeClock(), Metrics()
        self.batcher = Batcher(
            cast(Session, self.session),
            self.metrics,
            Settings(**{**limits, **settings}),
            Forecast(timings),
            self.clock,
        )

    def submit(self, *rows, within=10.0, priority=0):
        """Submit rows with a deadline in `within` seconds; return their futures."""
        deadline = self.clock.monotonic() + within
        return self.batcher.submit(rows, [deadline] * len(rows), priority)

    async def occupy(self):
        """Submit one row and wait until its run has begun; return its future."""
        (future,) = self.submit(make_row())
        await self.session.started()
        return future

    def shed(self, reason):
        """Return how many rows were shed for a reason."""
        return self.metrics.shed.labels(reason)._value.get()

    def level(self):
        """Return the budget level that the metrics report."""
        return self.metrics.budget_level._value.get()


def play(steps, **options):
    """Run `steps(harness)` in an event loop of its own; return its result and the session."""

    async def scenario():
        harness = Harness(**options)
        harness.batcher.start()
        try:
            async with asyncio.timeout(10):  # else a row that never runs would hang the test
                return await steps(harness), harness.session
        finally:
            harness.session.released.set()
            async with asyncio.timeout(10):
                await harness.batcher.close()

    return asyncio.run(scenario())
