"""An ASGI extension of the server: a whole body at once, and a whole response in one write.

ASGI passes bodies and responses as messages through two coroutines. A ranking call, whose body has
usually arrived with its head, needs neither: `Exchange` reads and writes the server's own state.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

EXTENSION = "rerank.exchange"  # the key in scope["extensions"]


class Exchange:
    """One request of `service.http.protocol` and its response."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @staticmethod
    def of(scope: Scope) -> Exchange | None:
        """Return the exchange of a request, None under another server."""
        extensions = scope.get("extensions")
        return extensions.get(EXTENSION) if extensions else None

    @property
    def disconnected(self) -> bool:
        """True once the client has left."""
        return bool(self._cycle.disconnected)

    def take_body(self) -> bytes | None:
        """Return the body if it has arrived as a whole, else None; `receive` then returns it."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue:
            return None
        cycle.flow.resume_reading()
        cycle.message_event.clear()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def respond(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, close: bool
    ) -> bool:
        """Write a response and end the request; the length of the body is among the headers.

        Returns False, having done nothing, if the client reads too slowly for a write, and True
        where there is no client any more. Values of headers must be printable.

        Args:
            close: close the connection after the response.
        """
        cycle = self._cycle
        if cycle.disconnected:
            return True
        if cycle.flow.write_paused:
            return False
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        if close:
            cycle.keep_alive = False
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        parts.append(body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"".join(parts))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True
