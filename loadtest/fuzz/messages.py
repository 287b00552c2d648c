"""Requests as they are sent, responses as they are received, and conversations of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

PATHS = ("/rerank", "/v1/rerank", "/rerank/batch", "/v1/rerank/batch")
MSGPACK = "application/msgpack"


@dataclass(frozen=True)
class Message:
    """One HTTP request as it is sent.

    headers: without the body's length; Host is added unless host is False or headers name it.
    chunk: bytes of the body in each chunk, 0 for one chunk. extension: of every chunk, with its
    semicolon. Chunks and trailers need chunked and a body; HTTP/1.0 has neither.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunked: bool = False
    version: str = "1.1"
    host: bool = True
    chunk: int = 0
    extension: str = ""
    trailers: tuple[tuple[str, str], ...] = ()

    @property
    def is_chunked(self) -> bool:
        """True if the body is sent in chunks."""
        return self.chunked and bool(self.body) and self.version != "1.0"

    @property
    def path(self) -> str:
        """The path of the target, without the query."""
        return self.target.split("?")[0]

    def header(self, name: str) -> list[str]:
        """Return the values of a header, by its name in lower case."""
        return [value for key, value in self.all_headers() if key.lower() == name]

    def all_headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers with Host and the one that frames the body."""
        length = ("Content-Length", str(len(self.body)))
        if self.is_chunked:
            length = ("Transfer-Encoding", "chunked")
        headers = self.headers
        if self.host and "host" not in (name.lower() for name, _ in headers):
            headers = (("Host", "127.0.0.1"), *headers)
        return (*headers, length)

    def wire(self) -> bytes:
        """Return the bytes of the request; header values are Latin-1."""
        start = f"{self.method} {self.target} HTTP/{self.version}"
        head = "\r\n".join([start, *_lines(self.all_headers()), "", ""]).encode("latin-1")
        return head + (b"".join(self._chunks()) if self.is_chunked else self.body)

    def _chunks(self) -> list[bytes]:
        size = self.chunk or len(self.body)
        parts = [self.body[at : at + size] for at in range(0, len(self.body), size)]
        extension = self.extension.encode("latin-1")
        chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
        end = "\r\n".join([*_lines(self.trailers), "", ""]).encode("latin-1")
        return [*chunks, b"0%b\r\n%b" % (extension, end)]

    def chunks(self) -> int:
        """Return the number of chunks, the last one included; 0 for a body in one piece."""
        size = self.chunk or len(self.body)
        return -(-len(self.body) // size) + 1 if self.is_chunked else 0


def _lines(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"{name}: {value}" for name, value in pairs]


def is_msgpack(headers: tuple[tuple[str, str], ...]) -> bool:
    """Return True for a request whose first content type is MessagePack."""
    kinds = [value for name, value in headers if name.lower() == "content-type"]
    return bool(kinds) and "msgpack" in kinds[0]


@dataclass(frozen=True)
class Response:
    """One HTTP response; header names in lower case. interim: number of 100 responses before it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    interim: int = 0


class Manner(StrEnum):
    """The way in which the messages of a conversation are sent.

    alone: one message on a kept connection. twins: one after the other; their statuses must agree.
    stored: a record of the entity store is written, read, deleted and read. repeated: the same
    events twice. These are sent one after the other too. The others take a connection of their own.
    pipelined: all at once. half_closed: all at once, after which the client stops writing. cut: the
    same, within the last message. departed: all at once, after which the client closes.
    """

    ALONE = "alone"
    TWINS = "twins"
    STORED = "stored"
    REPEATED = "repeated"
    PIPELINED = "pipelined"
    HALF_CLOSED = "half_closed"
    CUT = "cut"
    DEPARTED = "departed"


IN_TURN = (Manner.ALONE, Manner.TWINS, Manner.STORED, Manner.REPEATED)


@dataclass(frozen=True)
class Conversation:
    """Messages that are sent together. cut_at: share of the last message that is sent."""

    messages: tuple[Message, ...]
    manner: Manner = Manner.ALONE
    cut_at: float = 1.0

    def first(self, count: int) -> Conversation:
        """Return the conversation with at most `count` messages."""
        if len(self.messages) <= count:
            return self
        manner = Manner.ALONE if self.manner is Manner.TWINS and count < 2 else self.manner
        return replace(self, messages=self.messages[:count], manner=manner)

    def wire(self) -> bytes:
        """Return the bytes of all messages."""
        parts = [message.wire() for message in self.messages]
        if self.manner is Manner.CUT:
            parts[-1] = parts[-1][: int(self.cut_at * len(parts[-1]))]
        return b"".join(parts)
