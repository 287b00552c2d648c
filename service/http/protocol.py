"""HTTP below the application: what is refused, or left, before there is a request."""

from __future__ import annotations

import asyncio
import uuid

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.disconnects import ON_DISCONNECT
from service.http.responses import problem_from


class Protocol(HttpToolsProtocol):
    """Refuses what is not HTTP with a problem, and leaves whose head does not arrive in time.

    The application says how long a head may take, in the lifespan's state. A body is its own
    affair until it has answered; what is left of the body then has as long as a head.

    And reads on where a client offers to upgrade, as Java's does to h2c with every first request:
    the parser stops there, and a body would be lost. The offer is declined by not answering it.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A slow client may not hold a connection."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more, and whoever works on an answer may stop.

        Told at once and by a call: a task that waits for the server's word costs each request more.
        Of several requests that a client sent without waiting, the newest is told.
        """
        self._cancel_head_timer()
        cycle = self.cycle
        cancel = None if cycle is None else cycle.scope["state"].get(ON_DISCONNECT)
        super().connection_lost(exc)
        if cancel is not None:
            cancel()

    def on_message_begin(self) -> None:
        """The next request of a kept connection has as long as the first."""
        self._unset_keepalive_if_required()  # only now: other bytes do not keep it open
        self._start_head_timer()
        super().on_message_begin()

    def _start_head_timer(self) -> None:
        self._cancel_head_timer()
        timeout_s = self.app_state.get("head_timeout_s")
        if timeout_s is not None:
            self._head_timer = self.loop.call_later(timeout_s, self.transport.close)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def data_received(self, data: bytes) -> None:
        """Parse; a request that offers an upgrade is parsed again without the offer."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return

    def _head_without_upgrade(self) -> bytes:
        """The head of a request that offers an upgrade, for a fresh parser, less its offer."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        lines = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    def on_headers_complete(self) -> None:
        """Begin with the request, unless it will be parsed again."""
        self._cancel_head_timer()
        if self.parser.get_method() == b"CONNECT":  # an upgrade whatever its headers say
            raise ValueError("this is no proxy")  # which the parser makes an HttpParserError
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request's body, unless it will be parsed again."""
        self._cancel_head_timer()
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Who was refused before the body came may not hold the connection with it."""
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self._start_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 `bad_http` and close the connection: where the next request begins is lost."""
        request_id = uuid.uuid4().hex
        headers = {"X-Request-ID": request_id, "Connection": "close"}
        response = problem_from(400, "bad_http", msg, request_id, headers=headers)
        lines = [b"%b: %b\r\n" % pair for pair in response.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", bytes(response.body)]))
        self.transport.close()
