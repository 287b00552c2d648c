"""The HTTP/1.1 protocol below the application: heads, refusals, pipelining and disconnects."""

from __future__ import annotations

import asyncio
import uuid

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.errors import BadHttp, HeadTooLarge, ServiceError
from service.http.disconnects import ON_DISCONNECT
from service.http.exchange import EXTENSION, Exchange
from service.http.half_close import STATUS_LINE_START, DepartureWatch, RestOfStatusLine
from service.http.heads import (
    CHUNK_FRAME_BYTES,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_TARGET_BYTES,
    check_codings,
    check_fields,
    check_host,
    check_version,
    head_too_large,
    target_too_long,
    too_many_fields,
)
from service.http.problems import problem_response

# The rest of a refused request is read and discarded up to this size, so that its sender receives
# the response instead of a reset.
MAX_DISCARDED_BYTES = 32 << 20

# A read is parsed in slices that end where MAX_HEAD_BYTES could be exceeded, so that a message is
# bounded whether it arrives in one read or in many. Shorter slices would make a large body slow.
MIN_SLICE_BYTES = 256


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits for heads, problems for malformed HTTP, and no upgrades.

    Responses leave in the order of their requests. When a connection cannot go on, because of a
    malformed request or because the client stopped writing, the complete requests before that are
    answered first.

    The application puts the timeout of a head, `head_timeout_s`, into the lifespan's state. The
    application itself limits the time of a body until it responds; the rest of the body then has
    as long as a head.

    Java's client offers an upgrade to h2c with every first request. uvicorn's parser stops there
    and would lose the body, so such a request is parsed again without the offer.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None  # `cycle` is the newest one and may be queued
    _watch: DepartureWatch | None = None
    _refusal: ServiceError | None = None  # raised in a callback of the parser
    _ending = False  # no more requests are read
    _last_response = b""  # sent after all others
    _in_message = _in_head = False
    _discarded_bytes = 0
    _read_bytes = 0  # of the newest read
    _outside_body_bytes = 0  # of the arriving message
    _began_mid_read = False  # after another message, so its bytes of that read are not counted
    _completed_in_read = False
    _hosts: list[bytes]
    _codings: list[bytes]
    _valid_host: bytes | None = None  # a value of Host that was checked
    _trailers: list[tuple[bytes, bytes]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first head."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, cancel the running request and drop the queued ones.

        A callback costs a request less than a task that waits for the disconnect message.
        """
        self._cancel_head_timer()
        if self._watch is not None:
            self._watch.stop()
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._running is not None:
            self._abandon(self._running)

    def _abandon(self, cycle: RequestResponseCycle) -> None:
        """End a request whose response nobody will receive."""
        cycle.disconnected = True
        cycle.message_event.set()
        cancel = cycle.scope["state"].get(ON_DISCONNECT)
        if cancel is not None:
            cancel()

    def data_received(self, data: bytes) -> None:
        """Parse, again without the offer if a request offers an upgrade."""
        if self._ending:
            self._discard(len(data))
            return
        start = 0
        while start < len(data):
            if self._ending:
                self._discard(len(data) - start)
                return
            room = max(MIN_SLICE_BYTES, MAX_HEAD_BYTES + 1 - self._outside_body_bytes)
            self._parse(data[start : start + room])
            start += room

    def _parse(self, data: bytes) -> None:
        """Parse bytes, and refuse a message that is not complete with too many outside its body."""
        self._read_bytes, self._completed_in_read = len(data), False
        self._outside_body_bytes += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse(self._refusal or BadHttp("Invalid HTTP request received."))
                return
        if self._outside_body_bytes > MAX_HEAD_BYTES and self._in_message:
            self._refuse(head_too_large())

    def _head_without_upgrade(self) -> bytes:
        """Reset the parser and return the head of the stopped request without its offer."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        lines = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    def on_message_begin(self) -> None:
        """Start the timeout of the next head of a kept connection."""
        self._unset_keepalive_if_required()  # only now: bytes between requests do not keep it open
        self._start_head_timer()
        self._in_message = self._in_head = True
        self._began_mid_read = self._completed_in_read
        self._outside_body_bytes = 0 if self._began_mid_read else self._read_bytes
        self._hosts, self._codings, self._trailers = [], [], []
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Add a part of the target. Raises TargetTooLong."""
        self.url += url
        if len(self.url) > MAX_TARGET_BYTES:
            raise self._refused(target_too_long(len(self.url)))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers are only checked. Raises HeadTooLarge."""
        name = name.lower()
        if not self._in_head:  # a trailer must not replace a header that was already used
            self._check_trailer(name, value)
            return
        if name == b"host":
            self._hosts.append(value)
        elif name == b"transfer-encoding":
            self._codings.append(value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MAX_FIELDS:
            raise self._refused(too_many_fields())

    def _check_trailer(self, name: bytes, value: bytes) -> None:
        self._trailers.append((name, value))
        try:
            check_fields([*self.headers, *self._trailers], len(self.url))
        except HeadTooLarge as error:
            raise self._refused(error) from None

    def on_headers_complete(self) -> None:
        """Start the request, unless it will be parsed again. Raises ServiceError."""
        self._cancel_head_timer()
        try:
            self._check_head()
        except ServiceError as error:
            raise self._refused(error) from None
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self._in_head = False

    def _check_head(self) -> None:
        """Raise ServiceError for a head that is too large or that RFC 9112 does not allow."""
        if self._began_mid_read or self._outside_body_bytes > MAX_FIELD_BYTES:  # else all are small
            check_fields(self.headers, len(self.url))
        if self.parser.get_method() == b"CONNECT":  # an upgrade whatever its headers say
            raise BadHttp("CONNECT is not supported")
        version = self.parser.get_http_version()
        if version != "1.1":
            check_version(version)
            self.expect_100_continue = False  # such a client does not know interim responses
        if len(self._hosts) != 1 or self._hosts[0] != self._valid_host:
            check_host(version, self._hosts)
            self._valid_host = self._hosts[0] if self._hosts else None
        if self._codings:
            check_codings(version, self._codings)

    def on_body(self, body: bytes) -> None:
        """Add a part of the body."""
        self._outside_body_bytes -= len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Allow for the framing of a chunk, so that only extensions of some length count."""
        self._outside_body_bytes -= CHUNK_FRAME_BYTES

    def on_message_complete(self) -> None:
        """End the request's body, unless it will be parsed again."""
        self._cancel_head_timer()
        self._in_message, self._completed_in_read = False, True
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.scope["extensions"] = {EXTENSION: Exchange(cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Start the next request, or the timeout of a body that was not read before the response.

        If no more requests are read, the last response ends the connection.
        """
        self._running = None
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._running is None:
            if self._ending:
                self._end()
            elif self._in_message and not self._in_head:
                self._start_head_timer()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Finish the complete requests of a client that stopped writing.

        Returns True if a response is outstanding, which keeps the connection open.
        """
        if not self._ending and self._in_message and not self._in_head:
            self._drop_unfinished()
        running = self._running
        if running is None or running.disconnected:
            return False
        self._stop_reading()
        if not self._last_response:
            self.cycle.keep_alive = False
        if not running.response_started:
            self.transport.write(STATUS_LINE_START)
            running.transport = RestOfStatusLine(self.transport)  # type: ignore[assignment]
        self._watch = DepartureWatch(self.transport, self.loop)
        return True

    def _drop_unfinished(self) -> None:
        """Abandon the newest request, whose body will not be completed."""
        if self.cycle is self._running:
            self._abandon(self.cycle)
        elif self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()

    def _refused(self, error: ServiceError) -> ServiceError:
        """Keep an error for `data_received`: the parser replaces it by one of its own."""
        self._refusal = error
        return error

    def _refuse(self, error: ServiceError) -> None:
        """Respond with an error after all other responses, and close."""
        in_body = self._in_message and not self._in_head
        if not (in_body and self.cycle.response_started):  # one response to each request
            self._last_response = rendered(error)
            if in_body:
                self._drop_unfinished()
        self._stop_reading()
        if not self._has_request():
            self._end()

    def _stop_reading(self) -> None:
        """Read no more requests: the connection ends with the last response."""
        self._cancel_head_timer()
        self._ending = True

    def _end(self) -> None:
        """Send the last response, if there is one, and close."""
        self._unset_keepalive_if_required()
        if self._last_response:
            self.transport.write(self._last_response)
            if self._watch is None:  # the client may still be writing
                # Closed at once, a connection with unread bytes is reset, and the response lost.
                self.transport.write_eof()
                self._start_head_timer()
        if self._head_timer is None:
            self.transport.close()

    def _discard(self, size: int) -> None:
        """Count bytes that are not read as a request any more."""
        self._discarded_bytes += size
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            if self._has_request():
                self.flow.pause_reading()
            else:
                self.transport.close()

    def _has_request(self) -> bool:
        """Tell if a request is running whose response can still be sent."""
        return self._running is not None and not self._running.disconnected

    def shutdown(self) -> None:
        """Close a connection without requests; others close after their responses."""
        if self._ending and not self._has_request():
            self.transport.close()
        else:
            super().shutdown()

    def _start_head_timer(self) -> None:
        self._cancel_head_timer()
        timeout_s = self.app_state.get("head_timeout_s")
        if timeout_s is not None:
            self._head_timer = self.loop.call_later(timeout_s, self._time_out)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_out(self) -> None:
        """Close, after the responses to the requests before the incomplete head."""
        self._stop_reading()
        if not self._has_request():
            self.transport.close()


def rendered(error: ServiceError) -> bytes:
    """Render the response to a request that the application does not receive."""
    request_id = uuid.uuid4().hex
    response = problem_response(error, request_id)
    response.headers.update({"X-Request-ID": request_id, "Connection": "close"})
    lines = [b"%b: %b\r\n" % pair for pair in response.raw_headers]
    return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])
