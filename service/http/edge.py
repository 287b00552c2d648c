"""ASGI middleware: request ids, response headers, the body limit and unhandled exceptions."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import FieldError, PayloadTooLarge
from service.http.responses import problem_from

logger = logging.getLogger("service")

MAX_REQUEST_ID = 128
# A refused body is read and discarded up to this size, so that its sender receives the response
# instead of a broken pipe.
MAX_DISCARDED_BYTES = 32 << 20

SMALLER = (
    "send candidates as columns with their numbers as MessagePack arrays, leave out features that "
    "the item table holds, or raise RERANK_MAX_BODY_BYTES"
)


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
    ) -> None:
        """Wrap an application.

        Args:
            on_error: called for each unhandled exception.
            is_draining: connections are closed after their response while it returns True.
        """
        self.app, self.max_body_bytes = app, max_body_bytes
        self.on_error, self.is_draining = on_error, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        # A dict, built once: starlette's own mapping searches the list at each lookup.
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in reversed(scope["headers"])
        }
        request_id = headers.get("x-request-id", "")
        if not (
            0 < len(request_id) <= MAX_REQUEST_ID
            and request_id.isascii()
            and request_id.isprintable()
        ):
            request_id = uuid.uuid4().hex
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
            await self.app(scope, self._limit(receive), send_with_headers)
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
            rule = f"at most {self.max_body_bytes} bytes"
            error = FieldError("body", rule, f"{size} bytes")
            raise PayloadTooLarge(f"body: {rule}, got {size}; {SMALLER}", [error])

        return receive_limited
