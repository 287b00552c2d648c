"""The HTTP/1.1 protocol below the application: slow heads, upgrades and malformed requests."""

from __future__ import annotations

import asyncio
import uuid

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.disconnects import ON_DISCONNECT
from service.http.responses import problem_from


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a timeout for heads, problems for malformed HTTP, and no upgrades.

    The application puts the timeout, `head_timeout_s`, into the lifespan's state. The application
    itself limits the time of a body until it responds; the rest of the body then has as long as a
    head.

    Java's client offers an upgrade to h2c with every first request. uvicorn's parser stops there
    and would lose the body, so such a request is parsed again without the offer.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first head."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout and cancel the work for the newest request of the connection.

        A callback costs a request less than a task that waits for the disconnect message.
        """
        self._cancel_head_timer()
        cycle = self.cycle
        cancel = None if cycle is None else cycle.scope["state"].get(ON_DISCONNECT)
        super().connection_lost(exc)
        if cancel is not None:
            cancel()

    def on_message_begin(self) -> None:
        """Start the timeout of the next head of a kept connection."""
        self._unset_keepalive_if_required()  # only now: bytes between requests do not keep it open
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
        """Parse, again without the offer if a request offers an upgrade."""
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
        """Reset the parser and return the head of the stopped request without its offer."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        lines = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    def on_headers_complete(self) -> None:
        """Start the request, unless it will be parsed again."""
        self._cancel_head_timer()
        if self.parser.get_method() == b"CONNECT":  # an upgrade whatever its headers say
            raise ValueError("CONNECT is not supported")  # becomes an HttpParserError
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request's body, unless it will be parsed again."""
        self._cancel_head_timer()
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the timeout of a body that was not read before the response."""
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self._start_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Respond with 400 `bad_http` and close: the start of the next request is unknown."""
        request_id = uuid.uuid4().hex
        headers = {"X-Request-ID": request_id, "Connection": "close"}
        response = problem_from(400, "bad_http", msg, request_id, headers=headers)
        lines = [b"%b: %b\r\n" % pair for pair in response.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", bytes(response.body)]))
        self.transport.close()
