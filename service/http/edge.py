"""ASGI middleware: request ids, response headers, the body limit and unhandled exceptions."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.bodies import MAX_DISCARDED_BYTES, refuse_larger
from service.http.problems import problem_from

logger = logging.getLogger("service")

MAX_REQUEST_ID = 128


class Edge:
    """Wraps an application and puts `request_id` and `headers` into the request's state.

    headers is a dict[str, str] by lower-case name; of a repeated header the first one counts.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        on_error: Callable[[], None],
        is_draining: Callable[[], bool],
        streamed_paths: Collection[str] = (),
    ) -> None:
        """Wrap an application.

        Args:
            on_error: called for each unhandled exception.
            is_draining: connections are closed after their response while it returns True.
            streamed_paths: of routes that bound what they keep of a body of any size.
        """
        self.app, self.max_body_bytes = app, max_body_bytes
        self.on_error, self.is_draining = on_error, is_draining
        self.streamed_paths = streamed_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        headers = header_map(scope)
        request_id = request_id_of(headers)
        scope.setdefault("state", {}).update(request_id=request_id, headers=headers)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # Pairs of bytes, as the server takes them; a mapping would search them each time.
                response_headers = message["headers"] = list(message.get("headers", ()))
                names = {name for name, _ in response_headers}
                response_headers.append((b"x-content-type-options", b"nosniff"))
                if b"x-request-id" not in names:
                    response_headers.append((b"x-request-id", request_id.encode()))
                if b"traceparent" not in names and (traceparent := headers.get("traceparent")):
                    response_headers.append((b"traceparent", traceparent.encode("latin-1")))
                if self.is_draining():
                    response_headers.append((b"connection", b"close"))
                if b"server-timing" not in names:
                    elapsed_ms = 1e3 * (time.monotonic() - began)
                    response_headers.append((b"server-timing", b"total;dur=%.3f" % elapsed_ms))
            await send(message)

        try:
            if scope["path"] not in self.streamed_paths:
                receive = self._limit(receive)
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            return  # no client is left to respond to, and the service did not fail
        except Exception:
            logger.exception("unhandled error, request %s", request_id)
            self.on_error()
            if started:
                raise
            detail = "an unexpected error; the log describes it under this request id"
            response = problem_from(500, "internal_error", detail, request_id)
            await response(scope, receive, send_with_headers)

    def _limit(self, receive: Receive) -> Receive:
        """Wrap `receive` so that a body over the limit raises PayloadTooLarge."""
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size <= self.max_body_bytes:
                return message
            while message.get("more_body") and size < MAX_DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
            refuse_larger(size, self.max_body_bytes)
            return message

        return receive_limited


def header_map(scope: Scope) -> dict[str, str]:
    """Return the headers of a request by lower-case name; of a repeated one the first counts.

    Built once for each request: starlette's own mapping searches a list at each lookup.
    """
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


def request_id_of(headers: Mapping[str, str]) -> str:
    """Return the id that a request sends, or a random one of 32 hexadecimal digits."""
    sent = headers.get("x-request-id", "")
    if 0 < len(sent) <= MAX_REQUEST_ID and sent.isascii() and sent.isprintable():
        return sent
    return os.urandom(16).hex()
