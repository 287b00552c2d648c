"""Calls of the routes that read and change the entity store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import orjson

from loadtest.connections import Connection
from loadtest.scenarios import JSON
from loadtest.server import ServerError

NDJSON = "application/x-ndjson"
PATIENCE_S = 60.0
RECORDS = 2000  # of one PUT
RANKING_MS = 30_000  # deadline of lists that must be ranked; the service has at least as long
Event = dict[str, Any]
T = TypeVar("T")


class Caller:
    """One kept connection to a service, with one request at a time."""

    def __init__(self, host: str, connection: Connection, port: int) -> None:
        self._host, self._connection = host, connection
        self.port = port  # of this end, which tells the worker that accepted it

    @classmethod
    async def connect(cls, url: str) -> Caller:
        """Open a connection. Raises OSError."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(
            Connection, str(parts.hostname), int(parts.port or 80)
        )
        return cls(parts.netloc, connection, transport.get_extra_info("sockname")[1])

    async def post(self, path: str, body: bytes, media_type: str = JSON) -> tuple[int, bytes]:
        """Return status and content of the response. Raises OSError."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {media_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._connection.send(head.encode() + body)
        except BaseException:  # half a response may still come
            self._connection.close()
            raise

    async def post_json(self, path: str, payload: Any) -> dict[str, Any]:
        """Return the response to a JSON body. Raises OSError, ServerError for a refusal."""
        status, content = await self.post(path, orjson.dumps(payload))
        if status != 200:
            raise ServerError(f"POST {path}: status {status}: {content[:300]!r}")
        response: dict[str, Any] = orjson.loads(content)
        return response

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.asynccontextmanager
async def connected(*urls: str) -> AsyncIterator[list[Caller]]:
    """Yield a connection to each URL, in this order, until the block ends. Raises OSError."""
    callers: list[Caller] = []
    try:
        for url in urls:
            callers.append(await Caller.connect(url))
        yield callers
    finally:
        for caller in callers:
            caller.close()
        await asyncio.sleep(0)  # a transport closes in the loop's next turn


def put_records(url: str, kind: str, records: Iterable[Mapping[str, Any]]) -> int:
    """Put records of users or items, and return their number.

    Raises ServerError for a refused record, httpx.HTTPError.
    """
    written = 0
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        for batch in batches(records, RECORDS):
            lines = b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in batch)
            response = client.put(f"/{kind}", content=lines, headers={"Content-Type": NDJSON})
            refusal = f"PUT /{kind}: status {response.status_code}: {response.text[:300]}"
            if response.status_code != 200:
                raise ServerError(refusal)
            if response.json()["written"] != len(batch):
                raise ServerError(refusal)
            written += len(batch)
    return written


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the values in lists of at most `size`."""
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


def rank_all(client: httpx.Client, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the slate of each request of one call.

    Raises ServerError for a refusal or a degraded list, httpx.HTTPError.
    """
    bodies = [{**request, "timeout_ms": RANKING_MS} for request in requests]
    response = client.post("/rerank/batch", content=orjson.dumps({"requests": bodies}))
    if response.status_code != 200:
        raise ServerError(f"{response.url}: status {response.status_code}: {response.text[:300]}")
    answers = response.json()["responses"]
    for answer in answers:
        if answer["degraded"]:
            raise ServerError(f"{response.url}: degraded: {answer['degraded']}")
    return [answer["slate"] for answer in answers]


def entity_path(kind: str, name: str) -> str:
    """Return the path of a user or an item."""
    return f"/{kind}/{quote(name, safe='')}"


def feedback_body(events: Sequence[Event]) -> bytes:
    """Return the body of POST /feedback."""
    return orjson.dumps({"events": events})


def require_accepted(status: int, content: bytes, count: int) -> tuple[int, int]:
    """Return how many events were accepted, and how many of them the store had already.

    Raises ServerError unless all `count` events are in the store.
    """
    if status != 200:
        raise ServerError(f"POST /feedback: status {status}: {content[:300]!r}")
    answer = orjson.loads(content)
    if answer["refused"] or answer["accepted"] + answer["duplicates"] != count:
        raise ServerError(f"POST /feedback: {count} events were sent: {content[:300]!r}")
    return answer["accepted"], answer["duplicates"]


def event(number: object, user: str, item: str, label: float, moment: int) -> Event:
    """Return an answer of a user as an event; `number` makes its id, moment is in ms."""
    kind = "like" if label > 0.5 else "pass"
    return {"event_id": f"e{number}", "user": user, "item": item, "type": kind, "time": moment}


def now_ms() -> int:
    """Return the time in ms since 1970 UTC."""
    return time.time_ns() // 1_000_000
