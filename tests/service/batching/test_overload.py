"""A batcher under several times its capacity, on a clock that moves by the work that is done.

One thread parses requests and runs the model, as in the service with brief runs.
"""

import asyncio
import random
from collections import defaultdict
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from service.batching.batcher import Batcher
from service.batching.budget import Forecast
from service.engine.rows import Slate, SlateSampling, Timing
from service.engine.session import Session
from service.errors import DeadlineExceeded, Overloaded
from service.metrics import Metrics
from service.settings import Settings
from tests.support.batching import make_row
from tests.support.clock import FakeClock

CANDIDATES, SLATES, BUDGET = 100, 8, 3
DEADLINE_S, PARSE_S, RESPOND_S = 0.1, 0.0002, 0.00015
ROW = make_row(candidates=CANDIDATES, budget=BUDGET, sampling=SlateSampling(SLATES, seed=0))


def run_s(budget, volume):
    """Return the seconds of a run, as measured at warm-up."""
    return 0.0004 + 1.6e-6 * volume * (1 + 0.6 * budget)


class TimedSession:
    """Stands in for a session: a run moves the clock by the time that it takes."""

    provider, graph_cpu_s = "CPUExecutionProvider", 0.0
    manifest = SimpleNamespace(budget=BUDGET)

    def __init__(self, clock, draw):
        self._clock, self._draw = clock, draw

    def run(self, rows):
        seconds = run_s(max(row.budget for row in rows), len(rows) * SLATES * CANDIDATES)
        self._clock.spend(seconds * self._draw.uniform(1.1, 1.9))  # warm-up ran without sampling
        zeros = np.zeros(1, np.float32)
        return [Slate(np.array([0]), zeros, zeros, zeros, np.array([0]))] * len(rows)


class Simulation:
    """Poisson arrivals at one batcher, and the seconds from each to its response by outcome."""

    def __init__(self, rate):
        self._rate, self._draw, self._clock = rate, random.Random(0), FakeClock(0.0)
        timings = [Timing(b, v, run_s(b, v)) for b in (0, BUDGET) for v in (50, 800)]
        self._batcher = Batcher(
            cast(Session, TimedSession(self._clock, self._draw)),
            Metrics(),
            Settings(max_queue=128, brief_run_ms=1e6),
            Forecast(timings),
            self._clock,
        )
        self.seconds = defaultdict(list)
        self._due = 0.0
        self._waiting = []

    async def play(self, seconds):
        """Offer the arrivals of that many seconds."""
        self._batcher.start()
        while self._due < seconds:
            arrivals = self._arrivals()
            for due in arrivals:
                self._arrive(due)
            self._expire()
            before = self._clock.monotonic()
            await asyncio.sleep(0)  # the worker's turn
            if not arrivals and self._clock.monotonic() == before:
                await self._pass_time()
        await self._batcher.close()

    def _arrivals(self):
        """Return when the requests were due that have arrived by now."""
        arrivals = []
        while self._due <= self._clock.monotonic():
            arrivals.append(self._due)
            self._due += self._draw.expovariate(self._rate)
        return arrivals

    def _arrive(self, due):
        self._clock.spend(PARSE_S)
        deadline = self._clock.monotonic() + DEADLINE_S
        try:
            (future,) = self._batcher.submit([ROW], [deadline])
        except Overloaded as error:
            self._respond(due, error)
            return
        if future.done():
            self._respond(due, future.exception())
            return
        future.add_done_callback(lambda done: self._respond(due, done.exception()))
        self._waiting.append((deadline, future))

    def _expire(self):
        """End the requests whose deadline has passed, as the service does that waits for them."""
        now = self._clock.monotonic()
        for deadline, future in self._waiting:
            if deadline <= now and not future.done():
                future.set_exception(DeadlineExceeded("the deadline passed"))
        self._waiting = [each for each in self._waiting if not each[1].done()]

    def _respond(self, due, error):
        self._clock.spend(RESPOND_S)
        outcome = "ranked" if error is None else "shed"
        self.seconds[outcome].append(self._clock.monotonic() - due)

    async def _pass_time(self):
        """Let the worker come to rest; if it has nothing to run, wait for the next arrival."""
        for _ in range(8):
            await asyncio.sleep(0)
        if not self._waiting:
            self._clock.spend(max(0.0, self._due - self._clock.monotonic()))


def simulate(rate, seconds=6.0):
    """Return the seconds to a response of the ranked and of the shed requests."""
    simulation = Simulation(rate)
    asyncio.run(simulation.play(seconds))
    return simulation.seconds["ranked"], simulation.seconds["shed"]


@pytest.mark.parametrize(("rate", "ranked_per_s"), [(600, 340), (1000, 270), (2000, 110)])
def test_under_overload_few_of_the_shed_requests_wait_for_their_deadline(rate, ranked_per_s):
    ranked, shed = simulate(rate)
    assert np.quantile(shed, 0.5) < 0.005
    assert np.quantile(shed, 0.95) < 0.02
    assert np.mean(np.array(shed) > DEADLINE_S / 2) < 0.03
    assert np.quantile(ranked, 0.99) < DEADLINE_S + 0.02
    assert len(ranked) / 6.0 > ranked_per_s


def test_without_overload_no_request_is_shed():
    ranked, shed = simulate(250)
    assert len(ranked) > 1000
    assert shed == []
