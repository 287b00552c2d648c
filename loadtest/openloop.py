"""An open loop: requests leave when they are due, whether or not earlier ones have been answered.

Latency counts from the moment a request was due, so that a stall of the service, or of this
process, shows in every request that it held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

MOST_CONNECTIONS = 2000


@dataclass(frozen=True)
class Sample:
    """One request: when it was due and answered (s from the start), status, and what it says.

    status 0: no answer. budget: granted per position, None where no model answered.
    """

    due: float
    ended: float
    status: int
    degraded: str | None = None
    budget: int | None = None
    steps: int = 0

    @property
    def latency_s(self) -> float:
        """From due to answered."""
        return self.ended - self.due


class Pool:
    """Kept connections to one service, one request at a time on each."""

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._timeout_s = timeout_s
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError, asyncio.IncompleteReadError or TimeoutError."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        async with self._room, asyncio.timeout(self._timeout_s):
            reader, writer = await self._connection()
            try:
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                lines = answer.decode("latin-1").lower().split("\r\n")
                length = next(li for li in lines if li.startswith("content-length:"))
                content = await reader.readexactly(int(length.partition(":")[2]))
            except BaseException:
                writer.close()
                raise
            if "connection: close" in lines:
                writer.close()
            else:
                self._idle.append((reader, writer))
            return int(lines[0].split()[1]), content

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """An idle one that the service has not closed meanwhile, or a new one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)

    async def close(self) -> None:
        """Of idle connections."""
        for _, writer in self._idle:
            writer.close()
        for _, writer in self._idle:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def ask(pool: Pool, body: bytes, due: float, began: float) -> Sample:
    """One request and what came of it."""
    try:
        status, content = await pool.post("/rerank", body)
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        return Sample(due, time.monotonic() - began, 0)
    ended = time.monotonic() - began
    if status != 200:
        return Sample(due, ended, status)
    answer = json.loads(content)
    reason = answer["degraded"] and answer["degraded"]["reason"]
    used = answer["reasoning"]
    answered = reason in (None, "reduced_budget")
    budget = used["budget_per_position"] if answered else None
    return Sample(due, ended, status, reason, budget, used["steps_used"])


async def poisson(
    url: str, bodies: Sequence[bytes], phases: Sequence[tuple[float, float]], seed: int
) -> list[Sample]:
    """Requests at a rate (per s) for a time (s), phase after phase; every one that was due."""
    draw = random.Random(seed)
    pool = Pool(url, 10.0)
    gc.collect()
    gc.disable()  # samples pile up: a look through them all would count as the service's latency
    began = time.monotonic()
    tasks: list[asyncio.Task[Sample]] = []
    due, ends = 0.0, 0.0
    for rate, seconds in phases:
        ends += seconds
        while (due := due + draw.expovariate(rate)) < ends:
            wait = began + due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(ask(pool, draw.choice(bodies), due, began)))
        due = ends
    found = list(await asyncio.gather(*tasks))
    gc.enable()
    await pool.close()
    return found


async def closed(url: str, bodies: Sequence[bytes], clients: int, seconds: float) -> list[Sample]:
    """So many clients that each wait for their answer before they ask again."""
    pool = Pool(url, 10.0)
    began = time.monotonic()

    async def client(number: int) -> list[Sample]:
        draw, found = random.Random(number), []
        while (now := time.monotonic() - began) < seconds:
            found.append(await ask(pool, draw.choice(bodies), now, began))
        return found

    found = await asyncio.gather(*(client(number) for number in range(clients)))
    await pool.close()
    return [sample for samples in found for sample in samples]
