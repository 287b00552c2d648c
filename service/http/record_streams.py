"""Bodies of many records, read as a stream: lines of JSON, MessagePack values, or one JSON list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import msgpack
import orjson
import ormsgpack
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.errors import FieldError, InvalidRequest, PayloadTooLarge, SlowClient
from service.http.duplicates import refuse_repeated_keys
from service.http.parsing import decode, decode_value, is_msgpack, refuse_compressed
from service.state.errors import EntityError

ADVICE = "send a line per record as application/x-ndjson, whose number is not limited"
QUOTED_BYTES = 60  # of text that is no record
TEXT = frozenset(b"\t\n\r" + bytes(range(0x20, 0x7F)))  # the first byte of text in ASCII


class Encoded(NamedTuple):
    """One record of a body.

    number: of its line or value, from 1; content: as `decode` of its splitter takes it; error: in
    its place.
    """

    number: int
    content: Any
    error: EntityError | None = None


class Splitter(Protocol):
    """Finds the records in the parts of a body, on any thread."""

    def feed(self, part: bytes) -> Iterator[Encoded]:
        """Yield the records that a part completes.

        Raises EntityError if no more can follow, or PayloadTooLarge.
        """

    def end(self) -> Iterator[Encoded]:
        """Yield the last records. Raises EntityError if one is incomplete, or ServiceError."""

    def decode(self, content: Any) -> Any:
        """Return the value of a record. Raises EntityError."""


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

    def decode(self, content: bytes) -> Any:
        """Decode a line. Raises EntityError for all but JSON, and for a key with two values."""
        try:
            payload = orjson.loads(content)
            refuse_repeated_keys(content, payload)
        except orjson.JSONDecodeError as error:
            quoted = content[:QUOTED_BYTES].decode("utf-8", "replace")
            raise EntityError("line", f"JSON in UTF-8 ({error})", quoted) from None
        except InvalidRequest as refusal:
            repeated = refusal.errors[0]
            raise EntityError(repeated.path, repeated.rule, repeated.value) from None
        return payload


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
        if part and part[0] in TEXT and not self._number and not self._rest:
            # Each letter would be a value of its own, a small number, and be refused alone.
            quoted = part[:QUOTED_BYTES].decode("utf-8", "replace")
            raise self._broken("MessagePack; send text as application/x-ndjson", quoted)
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
        yield from ()

    def _broken(self, rule: str, value: str) -> EntityError:
        return EntityError(f"record {self._number + 1}", rule, value)

    def decode(self, content: bytes) -> Any:
        """Decode a MessagePack value. Raises EntityError."""
        try:
            return decode_value(content)
        except ormsgpack.MsgpackDecodeError as error:
            size = f"{len(content)} bytes"
            raise EntityError("record", f"MessagePack ({error})", size) from None


class Document:
    """One JSON document: an object, or a list of them."""

    def __init__(self, max_bytes: int, headers: Mapping[str, str]) -> None:
        self._max_bytes, self._headers = max_bytes, headers
        self._content = bytearray()

    def feed(self, part: bytes) -> Iterator[Encoded]:
        """Yield nothing. Raises PayloadTooLarge."""
        self._content += part
        size = len(self._content)
        if size > self._max_bytes:
            rule = f"at most {self._max_bytes} bytes as application/json"
            error = FieldError("body", rule, f"at least {size} bytes")
            raise PayloadTooLarge(f"body: {rule}, got at least {size}; {ADVICE}", [error])
        return iter(())

    def end(self) -> Iterator[Encoded]:
        """Yield the entries. Raises BadRequest or InvalidRequest for all but JSON."""
        payload = decode(bytes(self._content), self._headers)
        entries = payload if isinstance(payload, list) else [payload]
        return (Encoded(number, entry) for number, entry in enumerate(entries, 1))

    def decode(self, content: Any) -> Any:
        """Return the entry, which is decoded."""
        return content


def splitter_for(headers: Mapping[str, str], max_bytes: int) -> Splitter:
    """Return the splitter of a body.

    Args:
        headers: `Content-Type` application/json is one object or a list of them, a name of
            MessagePack is values behind each other, and all else is lines of JSON.
        max_bytes: largest record, and largest JSON document.

    Raises UnsupportedMedia for a compressed body.
    """
    refuse_compressed(headers)
    content_type = headers.get("content-type", "")
    if is_msgpack(content_type):
        return Values(max_bytes)
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return Document(max_bytes, headers)
    return Lines(max_bytes)


async def body_parts(receive: Receive, timeout_s: float) -> AsyncIterator[bytes]:
    """Yield a body as it arrives. Raises SlowClient or ClientDisconnect.

    timeout_s: time within which each part has to follow the one before.
    """
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
