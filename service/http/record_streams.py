"""Bodies of many records, read as a stream: lines of JSON, MessagePack values, or one JSON list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import msgpack
import orjson
import ormsgpack
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.errors import FieldError, InvalidRequest, PayloadTooLarge, SlowClient
from service.http.bodies import read_body
from service.http.duplicates import refuse_repeated_keys
from service.http.parsing import decode, decode_value, is_msgpack, refuse_compressed
from service.state.errors import EntityError

BATCH_RECORDS = 1000  # after which a batch is handed on
BATCH_BYTES = 1 << 20
LINES = "send a line per record as application/x-ndjson, whose number is not limited"
QUOTED_BYTES = 60  # of a line that is no JSON


class Encoded(NamedTuple):
    """One record of a body.

    number: of its line or value, from 1; content: as the decoder of its form takes it; error: in
    its place.
    """

    number: int
    content: Any
    error: EntityError | None = None


Decoder = Callable[[Any], Any]  # raises EntityError


class RecordStream(NamedTuple):
    """The batches of a body, and the decoder of its records.

    Iterating over the batches raises SlowClient, ClientDisconnect or, where the start of the next
    record is unknown, EntityError; and of a JSON document, what `read_body` and `decode` raise.
    """

    batches: AsyncIterator[list[Encoded]]
    decoder: Decoder


class Splitter(Protocol):
    """Finds the records in the parts of a body."""

    def feed(self, part: bytes) -> Iterator[Encoded]:
        """Yield the records that a part completes. Raises EntityError if no more can follow."""

    def end(self) -> Iterator[Encoded]:
        """Yield the last record. Raises EntityError if it is incomplete."""


class Lines:
    """Lines of JSON; a line over the limit becomes an error, and blank lines are counted only."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._number = max_bytes, 1
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, part: bytes) -> Iterator[Encoded]:
        """Yield the lines that a part completes."""
        *complete, rest = part.split(b"\n")
        for piece in complete:
            self._keep(piece)
            yield from self.end()
            self._number += 1
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._max_bytes:
            self._parts.append(piece)
        else:
            self._parts.clear()

    def end(self) -> Iterator[Encoded]:
        """Yield the line that has no end yet, unless it is blank."""
        line, size = b"".join(self._parts), self._size
        self._parts.clear()
        self._size = 0
        if size > self._max_bytes:
            rule = f"at most {self._max_bytes} bytes"
            yield Encoded(self._number, None, EntityError("line", rule, f"{size} bytes"))
        elif line and not line.isspace():
            yield Encoded(self._number, line)


class Values:
    """MessagePack values behind each other.

    Only the end of each value is searched for here, which builds no objects; so a value that
    announces more than it has takes no memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._number = max_bytes, 0
        self._unpacker = msgpack.Unpacker(max_buffer_size=0)
        self._rest = bytearray()
        self._start = 0  # of `_rest` in the body

    def feed(self, part: bytes) -> Iterator[Encoded]:
        """Yield the values that a part completes. Raises EntityError if no more can follow."""
        self._unpacker.feed(part)
        self._rest += part
        begin = 0
        while self._skip():
            end = self._unpacker.tell() - self._start
            content, size = bytes(self._rest[begin:end]), end - begin
            begin = end
            self._number += 1
            error = None
            if size > self._max_bytes:
                error = EntityError("record", f"at most {self._max_bytes} bytes", f"{size} bytes")
            yield Encoded(self._number, content, error)
        del self._rest[:begin]
        self._start += begin
        if len(self._rest) > self._max_bytes:
            raise self._broken(f"at most {self._max_bytes} bytes", f"{len(self._rest)} bytes")

    def _skip(self) -> bool:
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            return False
        except (msgpack.UnpackException, ValueError) as error:
            raise self._broken("MessagePack", type(error).__name__) from None
        return True

    def end(self) -> Iterator[Encoded]:
        """Yield nothing. Raises EntityError if the last value is incomplete."""
        if self._rest:
            raise self._broken("complete", f"{len(self._rest)} bytes")
        return iter(())

    def _broken(self, rule: str, value: str) -> EntityError:
        return EntityError(f"record {self._number + 1}", rule, value)


def decode_line(line: bytes) -> Any:
    """Decode a line. Raises EntityError for all but JSON, and for a key with two values."""
    try:
        payload = orjson.loads(line)
        refuse_repeated_keys(line, payload)
    except orjson.JSONDecodeError as error:
        quoted = line[:QUOTED_BYTES].decode("utf-8", "replace")
        raise EntityError("line", f"JSON in UTF-8 ({error})", quoted) from None
    except InvalidRequest as refusal:
        repeated = refusal.errors[0]
        raise EntityError(repeated.path, repeated.rule, repeated.value) from None
    return payload


def decode_record(content: bytes) -> Any:
    """Decode a MessagePack value. Raises EntityError."""
    try:
        return decode_value(content)
    except ormsgpack.MsgpackDecodeError as error:
        raise EntityError("record", f"MessagePack ({error})", f"{len(content)} bytes") from None


def _decoded(payload: Any) -> Any:
    return payload


def open_stream(
    receive: Receive, headers: Mapping[str, str], max_bytes: int, timeout_s: float
) -> RecordStream:
    """Return the records of a body.

    Args:
        headers: `Content-Type` application/json is one object or a list of them, a name of
            MessagePack is values behind each other, and all else is lines of JSON.
        max_bytes: largest record, and largest JSON document.
        timeout_s: time within which the next part of the body has to arrive.

    Raises UnsupportedMedia for a compressed body.
    """
    refuse_compressed(headers)
    content_type = headers.get("content-type")
    if is_msgpack(content_type):
        return RecordStream(_split(receive, Values(max_bytes), timeout_s), decode_record)
    if content_type is not None and content_type.partition(";")[0].strip().lower() == (
        "application/json"
    ):
        return RecordStream(_document(receive, headers, max_bytes, timeout_s), _decoded)
    return RecordStream(_split(receive, Lines(max_bytes), timeout_s), decode_line)


async def _document(
    receive: Receive, headers: Mapping[str, str], max_bytes: int, timeout_s: float
) -> AsyncIterator[list[Encoded]]:
    try:
        content = await read_body(receive, max_bytes, timeout_s)
    except PayloadTooLarge as refusal:
        size = refusal.errors[0].value
        detail = f"body: at most {max_bytes} bytes as application/json, got {size}; {LINES}"
        raise PayloadTooLarge(detail, refusal.errors) from None
    payload = decode(content, headers)
    entries = payload if isinstance(payload, list) else [payload]
    for start in range(0, len(entries), BATCH_RECORDS):
        batch = entries[start : start + BATCH_RECORDS]
        yield [Encoded(start + place, entry) for place, entry in enumerate(batch, 1)]


async def _split(
    receive: Receive, splitter: Splitter, timeout_s: float
) -> AsyncIterator[list[Encoded]]:
    """Yield batches of records; those before an error come first."""
    batch: list[Encoded] = []
    size = 0
    try:
        async for part in _parts(receive, timeout_s):
            size += len(part)
            for record in splitter.feed(part):
                batch.append(record)
                if len(batch) == BATCH_RECORDS:
                    yield batch
                    batch, size = [], 0
            if batch and size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        batch += splitter.end()
    except EntityError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


async def _parts(receive: Receive, timeout_s: float) -> AsyncIterator[bytes]:
    more = True
    while more:
        try:
            async with asyncio.timeout(timeout_s):
                message = await receive()
        except TimeoutError:
            rule = f"each part must arrive within {timeout_s:g} s"
            error = FieldError("body", rule, "nothing")
            raise SlowClient(f"body: {rule} of the one before", [error]) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        if part := message.get("body", b""):
            yield part
