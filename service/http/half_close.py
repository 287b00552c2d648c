"""Connections whose client has closed its writing side: half closed, or gone altogether."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

STATUS_LINE_START = b"HTTP/1.1 "  # of every response
POLL_S = 0.02


class RestOfStatusLine:
    """A transport for one response whose STATUS_LINE_START has been sent already."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pending = True

    def write(self, data: bytes) -> None:
        """Write, without STATUS_LINE_START the first time."""
        if self._pending:
            data, self._pending = data.removeprefix(STATUS_LINE_START), False
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class DepartureWatch:
    """Aborts a connection once its peer is known to have closed both directions.

    A peer that closes sends the same segment as one that only stops writing. The two differ in
    their reply to data: a closed socket resets the connection. So the first bytes of the response,
    which are always the same, are sent early. The event loop does not watch a connection whose end
    was read, so the reset is looked for.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Watch a connection from now on."""
        self._transport, self._loop = transport, loop
        self._socket = transport.get_extra_info("socket")
        self._timer = loop.call_later(POLL_S, self._look)

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(POLL_S, self._look)

    def stop(self) -> None:
        """Stop watching."""
        self._timer.cancel()
