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
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httptools
import orjson
import ormsgpack

from loadtest.scenarios import JSON, MSGPACK

T = TypeVar("T")

MOST_CONNECTIONS = 2000
PATIENCE_S = 10.0  # who has not been answered by then is counted as unanswered


@dataclass(frozen=True)
class Sample:
    """One request: when it was due, sent and answered (s from the start), status, what it says.

    status 0: no answer, or one that cannot be read. budget: granted per position, None where no
    model answered. queue_ms and inference_ms as the service tells them, 0 where it does not.
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

    @property
    def latency_s(self) -> float:
        """From due to answered."""
        return self.ended - self.due


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond; epoll alone would round every wait up to a millisecond.

    That is what a short request takes: sending each half of it late would be most of the figure.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As EpollSelector's."""
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)  # an epoll is a file as well
            timeout = 0
        return super().select(timeout)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a loop that sends when it is due."""
    loop = asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=lambda: loop(PreciseSelector())) as runner:
        return runner.run(main)


class Connection(asyncio.Protocol):
    """A kept connection, one request at a time on it."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._content: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits gets no answer."""
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before an answer"))

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(ConnectionError(f"no HTTP: {error}"))

    def on_body(self, body: bytes) -> None:
        """Of the parser."""
        self._content.append(body)

    def on_message_complete(self) -> None:
        """Of the parser: the answer is there."""
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            answer = self._parser.get_status_code(), b"".join(self._content)
            self._answer.set_result(answer)
        self._content.clear()

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Write a request; its status and content. Ends in OSError where the connection does."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Not to be used again."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()


class Pool:
    """Kept connections to one service, one request at a time on each."""

    def __init__(self, url: str, most: int = MOST_CONNECTIONS) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._host = parts.netloc
        # Taken in turn: the last one used first would keep to one worker of several.
        self._idle: deque[Connection] = deque()
        self._room = asyncio.Semaphore(most)

    async def post(self, path: str, body: bytes, kind: str = JSON) -> tuple[int, bytes]:
        """Status and content; kind: the body's media type. Raises OSError."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        async with self._room:
            connection = await self._connection()
            try:
                answer = await connection.ask(head.encode() + body)
            except BaseException:  # half an answer may still come
                connection.close()
                raise
            if connection.usable:
                self._idle.append(connection)
            return answer

    async def _connection(self) -> Connection:
        """An idle one that the service has not closed meanwhile, or a new one."""
        while self._idle:
            connection = self._idle.popleft()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, *self._address))[1]

    async def close(self) -> None:
        """Of idle connections."""
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)  # a transport closes in the loop's next turn


async def ask(
    pool: Pool, path: str, body: bytes, due: float, began: float, kind: str = JSON
) -> Sample:
    """One request and what came of it."""
    sent = time.monotonic() - began
    try:
        status, content = await pool.post(path, body, kind)
    except (OSError, asyncio.CancelledError):
        return Sample(due, time.monotonic() - began, 0, sent=sent)
    ended = time.monotonic() - began
    if status != 200:
        return Sample(due, ended, status, sent=sent)
    try:
        answer = ormsgpack.unpackb(content) if kind == MSGPACK else orjson.loads(content)
    except ValueError:  # half an answer is none
        return Sample(due, ended, 0, sent=sent)
    return Sample(due, ended, status, **told(answer), sent=sent)


def told(answer: Any) -> dict[str, Any]:
    """What an answer says of itself; of several lists the slowest. Nothing where it is not ours."""
    if not isinstance(answer, dict):
        return {}
    answers = answer.get("responses", [answer])
    if not answers or "latency_ms" not in answers[0]:
        return {}
    one = max(answers, key=lambda each: each["latency_ms"]["total"])
    reasons = [a["degraded"]["reason"] for a in answers if a["degraded"]]
    reason = next((r for r in reasons if r != "reduced_budget"), reasons[0] if reasons else None)
    used, latency = one["reasoning"], one["latency_ms"]
    return {
        "degraded": reason,
        "budget": used["budget_per_position"] if reason in (None, "reduced_budget") else None,
        "steps": used["steps_used"],
        "queue_ms": latency["queue"],
        "inference_ms": latency["inference"],
    }


async def poisson(
    url: str,
    bodies: Sequence[bytes],
    phases: Sequence[tuple[float, float]],
    seed: int,
    path: str = "/rerank",
    begin: float | None = None,
    kind: str = JSON,
) -> list[Sample]:
    """Requests at a rate (per s) for a time (s), phase after phase; every one that was due.

    begin: the start, a time of time.monotonic(), which all processes of a machine share.
    """
    draw = random.Random(seed)
    pool = Pool(url)
    gc.collect()
    gc.disable()  # samples pile up: a look through them all would count as the service's latency
    began = time.monotonic() if begin is None else begin
    tasks: list[asyncio.Task[Sample]] = []
    due, ends = 0.0, 0.0
    for rate, seconds in phases:
        ends += seconds
        while (due := due + draw.expovariate(rate)) < ends:
            wait = began + due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            body = draw.choice(bodies)
            tasks.append(asyncio.create_task(ask(pool, path, body, due, began, kind)))
        due = ends
    found: list[Sample] = []
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
        for task in late:
            task.cancel()
        found = list(await asyncio.gather(*tasks))
    gc.enable()
    await pool.close()
    return found


async def closed(
    url: str, bodies: Sequence[bytes], clients: int, seconds: float, path: str = "/rerank"
) -> list[Sample]:
    """So many clients that each wait for their answer before they ask again."""
    pool = Pool(url)
    began = time.monotonic()

    async def client(number: int) -> list[Sample]:
        draw, found = random.Random(number), []
        while (now := time.monotonic() - began) < seconds:
            found.append(await ask(pool, path, draw.choice(bodies), now, began))
        return found

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    _, late = await asyncio.wait(tasks, timeout=seconds + PATIENCE_S)
    for task in late:
        task.cancel()
    found = await asyncio.gather(*tasks)
    await pool.close()
    return [sample for samples in found for sample in samples]
