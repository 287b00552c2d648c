"""Kept HTTP connections to one service, and the kinds of failure that they meet."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from urllib.parse import urlsplit

import httptools

from loadtest.scenarios import JSON

MAX_CONNECTIONS = 2000
REFUSED, RESET, TIMEOUT = "connection refused", "connection reset", "timeout"
UNREADABLE = "unreadable response"
EXHAUSTED = "generator out of sockets"
# Errors of the machine that sends: no descriptor, port, buffer or memory is left.
EXHAUSTION = {
    errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM
}  # fmt: skip


class ProtocolError(ConnectionError):
    """The peer sent something other than HTTP."""


def failure_of(error: OSError) -> str:
    """Return the kind of a failed request, as reports count it."""
    if error.errno in EXHAUSTION:
        return EXHAUSTED
    match error:
        case ProtocolError():
            return UNREADABLE
        case ConnectionRefusedError():
            return REFUSED
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return RESET
        case TimeoutError():
            return TIMEOUT
        case socket.gaierror():
            return "host not resolved"
    return f"connection error: {os.strerror(error.errno) if error.errno else error}"


class Connection(asyncio.Protocol):
    """A kept connection with one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._response: asyncio.Future[tuple[int, bytes]] | None = None
        self._content: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio calls it)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self.usable = False
        if self._response is not None and not self._response.done():
            self._response.set_exception(exc or ConnectionResetError("closed before a response"))

    def data_received(self, data: bytes) -> None:
        """Parse received bytes (asyncio calls it)."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            if self._response is not None and not self._response.done():
                self._response.set_exception(ProtocolError(f"no HTTP: {error}"))

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body (the parser calls it)."""
        self._content.append(body)

    def on_message_complete(self) -> None:
        """Finish the response (the parser calls it)."""
        if not self._parser.should_keep_alive():
            self.close()
        if self._response is not None and not self._response.done():
            self._response.set_result((self._parser.get_status_code(), b"".join(self._content)))
        self._content.clear()

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Write a request; the future gets status and body, or OSError when the connection ends."""
        assert self._transport is not None
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._response

    def close(self) -> None:
        """Close the connection and never use it again."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()  # `close` waits for unsent bytes, even after the loop's end


class Pool:
    """Kept connections to one service, one request at a time on each."""

    def __init__(self, url: str, max_connections: int = MAX_CONNECTIONS) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._resolved: list[tuple[str, int]] | None = None
        self._host = parts.netloc
        # Used in turn: reusing the last one would keep to one worker of several.
        self._idle: deque[Connection] = deque()
        self._room = asyncio.Semaphore(max_connections)

    async def post(self, path: str, body: bytes, media_type: str = JSON) -> tuple[int, bytes]:
        """Return the status and content of the response. Raises OSError."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {media_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        async with self._room:
            connection = await self._connection()
            try:
                response = await connection.send(head.encode() + body)
            except BaseException:  # half a response may still come
                connection.close()
                raise
            if connection.usable:
                self._idle.append(connection)
            return response

    async def _connection(self) -> Connection:
        """Return an idle connection that the service has not closed meanwhile, or a new one."""
        while self._idle:
            connection = self._idle.popleft()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        if self._resolved is None:
            host, port = self._address
            entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._resolved = [(str(address[0]), int(address[1])) for *_, address in entries]
        last: OSError | None = None
        # One address after the other: create_connection joins the errors of several addresses
        # into one without an errno.
        for address in self._resolved:
            try:
                _, connection = await loop.create_connection(Connection, *address)
            except OSError as error:
                last = error
            else:
                return connection
        raise last or OSError(errno.EADDRNOTAVAIL, "the host has no address")

    async def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)  # a transport closes in the loop's next turn
