"""An open loop: requests leave when they are due, whether or not earlier ones have been answered.

Latency counts from the moment a request was due, so that a stall of the service, or of this
process, shows in every request that it held up.
"""

from __future__ import annotations

import asyncio
import gc
import random
import select
import selectors
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import ormsgpack

from loadtest.connections import TIMEOUT, Pool, failure_of
from loadtest.scenarios import JSON, MSGPACK

T = TypeVar("T")

PATIENCE_S = 10.0  # after the last request was sent; a request without a response then failed
UNREADABLE_BODY = "unreadable body"


@dataclass(frozen=True)
class Sample:
    """One request: when it was due, sent and answered (s from the start), status, response fields.

    status 0: no response, or one that cannot be read; `failure` says why. budget: granted per
    position, None when no model answered. queue_ms and inference_ms as the service reports them,
    0 when it does not.
    """

    due: float
    ended: float
    status: int
    degraded: str | None = None
    budget: int | None = None
    steps: int = 0
    sent: float = 0.0
    queue_ms: float = 0.0
    inference_ms: float = 0.0
    failure: str | None = None

    @property
    def latency_s(self) -> float:
        """Seconds from due to answered."""
        return self.ended - self.due


class PreciseSelector(selectors.EpollSelector):
    """Wait to the microsecond; epoll alone rounds every wait up to a millisecond.

    A short request takes a millisecond, so load_generators it late would be most of the figure.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the ready files, as EpollSelector does."""
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)  # an epoll is a file too
            timeout = 0
        return super().select(timeout)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as asyncio.run does, on a loop with precise timers."""
    loop = asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=lambda: loop(PreciseSelector())) as runner:
        return runner.run(main)


def run_until_interrupt(main: Coroutine[Any, Any, Any]) -> KeyboardInterrupt | None:
    """Run a loop that keeps its samples by `into`; return the interrupt that ended it, or None."""
    try:
        run(main)
    except KeyboardInterrupt as interrupt:
        return interrupt
    return None


async def send_request(
    pool: Pool, path: str, body: bytes, due: float, began: float, media_type: str = JSON
) -> Sample:
    """Send one request and return its sample."""
    sent = time.monotonic() - began
    try:
        status, content = await pool.post(path, body, media_type)
    except asyncio.CancelledError as cancellation:
        if cancellation.args != (TIMEOUT,):
            raise  # the measurement was interrupted, which says nothing about this request
        return Sample(due, time.monotonic() - began, 0, sent=sent, failure=TIMEOUT)
    except OSError as error:
        return Sample(due, time.monotonic() - began, 0, sent=sent, failure=failure_of(error))
    ended = time.monotonic() - began
    if status != 200:
        return Sample(due, ended, status, sent=sent)
    try:
        answer = ormsgpack.unpackb(content) if media_type == MSGPACK else orjson.loads(content)
    except ValueError:
        return Sample(due, ended, 0, sent=sent, failure=UNREADABLE_BODY)
    return Sample(due, ended, status, **response_fields(answer), sent=sent)


def response_fields(answer: Any) -> dict[str, Any]:
    """Return the fields of a sample that a response holds, of several lists those of the slowest.

    Empty for the response of another service.
    """
    if not isinstance(answer, dict):
        return {}
    answers = answer.get("responses", [answer])
    if not answers or "latency_ms" not in answers[0]:
        return {}
    slowest = max(answers, key=lambda each: each["latency_ms"]["total"])
    reasons = [a["degraded"]["reason"] for a in answers if a["degraded"]]
    reason = next((r for r in reasons if r != "reduced_budget"), reasons[0] if reasons else None)
    reasoning, latency = slowest["reasoning"], slowest["latency_ms"]
    ranked = reason in (None, "reduced_budget")
    return {
        "degraded": reason,
        "budget": reasoning["budget_per_position"] if ranked else None,
        "steps": reasoning["steps_used"],
        "queue_ms": latency["queue"],
        "inference_ms": latency["inference"],
    }


async def open_loop(
    url: str,
    bodies: Sequence[bytes],
    phases: Sequence[tuple[float, float]],
    seed: int,
    path: str = "/rerank",
    begin: float | None = None,
    media_type: str = JSON,
    into: list[Sample] | None = None,
) -> list[Sample]:
    """Offer Poisson arrivals and return a sample for every request that was due.

    Args:
        phases: Rate (requests/s) and duration (s) of each phase.
        begin: Start as a time of time.monotonic(), which all processes of a machine share.
        into: Receives the samples, after an interrupt those of the requests that were answered.
    """
    draw = random.Random(seed)
    pool = Pool(url)
    gc.collect()
    gc.disable()  # a collection of the piled-up samples would count as the service's latency
    began = time.monotonic() if begin is None else begin
    tasks: list[asyncio.Task[Sample]] = []
    samples = [] if into is None else into
    due, ends = 0.0, 0.0
    try:
        for rate, seconds in phases:
            ends += seconds
            while (due := due + draw.expovariate(rate)) < ends:
                wait = began + due - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                body = draw.choice(bodies)
                tasks.append(
                    asyncio.create_task(send_request(pool, path, body, due, began, media_type))
                )
            due = ends
        await cancel_late(tasks, PATIENCE_S)
    finally:
        samples += [t.result() for t in tasks if t.done() and not (t.cancelled() or t.exception())]
        gc.enable()
        await end(tasks, pool)
    return samples


async def cancel_late(tasks: Sequence[asyncio.Task[Any]], patience_s: float) -> None:
    """Wait for all tasks; requests that take longer than `patience_s` fail."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=patience_s)
        for task in late:
            task.cancel(TIMEOUT)
        await asyncio.gather(*tasks)


async def end(tasks: Sequence[asyncio.Task[Any]], pool: Pool) -> None:
    """Cancel what is left after an interrupt, and close the connections."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.close()


async def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    clients: int,
    seconds: float,
    path: str = "/rerank",
    into: list[Sample] | None = None,
) -> list[Sample]:
    """Run clients that each wait for a response before they send the next request.

    into: Receives the samples, also those before an interrupt.
    """
    pool = Pool(url)
    began = time.monotonic()
    samples = [] if into is None else into

    async def client(number: int) -> None:
        draw = random.Random(number)
        while (now := time.monotonic() - began) < seconds:
            samples.append(await send_request(pool, path, draw.choice(bodies), now, began))

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    try:
        await cancel_late(tasks, seconds + PATIENCE_S)
    finally:
        await end(tasks, pool)
    return samples
