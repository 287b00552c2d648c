"""Processes that offer load in an open loop."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from loadtest.openloop import Sample, open_loop, run
from loadtest.processes import end_with_parent
from loadtest.results import Load, RateResult
from loadtest.scenarios import Scenario
from loadtest.server import ServerError

LEAD_S = 0.05  # between the order to send and the first request


class Generators:
    """Processes that offer load; kept between rates, since each takes a second to start."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers: list[tuple[Any, Connection[Any, Any]]] = []
        spawn = multiprocessing.get_context("spawn")
        try:
            for _ in range(count):
                pipe, far_end = spawn.Pipe()
                process = spawn.Process(target=_serve, args=(far_end,), daemon=True)
                process.start()
                far_end.close()
                self._workers.append((process, pipe))
            for process, pipe in self._workers:
                _receive(process, pipe)
        except BaseException:
            self.close()
            raise

    def offer(self, url: str, scenario: Scenario, load: Load) -> RateResult:
        """Offer a load and leave out the requests that were due in the warm-up.

        Raises ServerError when a generator process ends on its way.
        """
        begin = time.monotonic() + LEAD_S
        for number, (_, pipe) in enumerate(self._workers):
            seed = load.seed * 1000 + number
            rate, seconds = load.rate / self.count, load.warmup + load.seconds
            pipe.send((url, scenario, rate, seconds, seed, begin))
        parts = [_receive(process, pipe) for process, pipe in self._workers]
        samples = [s for part, _ in parts for s in part if s.due >= load.warmup]
        lags = [1e3 * (s.sent - s.due) for s in samples] or [0.0]
        busy = max(share for _, share in parts)
        return RateResult(load, samples, busy, float(np.quantile(lags, 0.99)), scenario.expected)

    def close(self) -> None:
        """End the processes at once, also in the middle of a rate."""
        for process, pipe in self._workers:
            process.kill()
            process.join()
            pipe.close()
        self._workers.clear()


@contextlib.contextmanager
def generators(count: int) -> Iterator[Generators]:
    """Yield generators that are closed at the end."""
    started = Generators(count)
    try:
        yield started
    finally:
        started.close()


def _receive(process: Any, pipe: Connection[Any, Any]) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        process.join()
        status = process.exitcode
        raise ServerError(f"generator: process {process.pid} ended with status {status}") from None


def _serve(pipe: Connection[Any, Any]) -> None:
    """Offer one rate after the other in a generator process, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides about Ctrl-C
    end_with_parent()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pipe.send(None)
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        pipe.send(_offer(*order))


def _offer(
    url: str, scenario: Scenario, rate: float, seconds: float, seed: int, begin: float
) -> tuple[list[Sample], float]:
    """Return the samples of one process, and the share of a core that it used while it sent."""
    shares: list[float] = []

    async def measured() -> list[Sample]:
        cpu_before, before = time.process_time(), time.monotonic()
        samples = await open_loop(
            url, scenario.bodies, [(rate, seconds)], seed, scenario.path, begin, scenario.media_type
        )
        shares.append((time.process_time() - cpu_before) / (time.monotonic() - before))
        return samples

    return run(measured()), shares[0]
