"""The body of a request, read with limits of its size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.errors import FieldError, PayloadTooLarge, SlowClient

# A refused body is read and discarded up to this size, so that its sender receives the response
# instead of a broken pipe.
MAX_DISCARDED_BYTES = 32 << 20

SMALLER = (
    "send candidates as columns with their numbers as MessagePack arrays, leave out features that "
    "the item table holds, or raise RERANK_MAX_BODY_BYTES"
)


async def read_body(
    receive: Receive, max_bytes: int, timeout_s: float, content: bytes | None = None
) -> bytes:
    """Return the body of a request.

    content: the whole body if it has been read. Raises PayloadTooLarge, SlowClient or
    ClientDisconnect.
    """
    if content is not None:
        refuse_larger(len(content), max_bytes)
        return content
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(timeout_s):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size <= max_bytes:
                    parts.append(part)
                elif size >= MAX_DISCARDED_BYTES:
                    break
    except TimeoutError:
        raise SlowClient(f"body: must arrive within {timeout_s:g} s") from None
    refuse_larger(size, max_bytes)
    return b"".join(parts)


def refuse_larger(size: int, max_bytes: int) -> None:
    """Raise PayloadTooLarge for a body of more than `max_bytes`."""
    if size > max_bytes:
        rule = f"at most {max_bytes} bytes"
        error = FieldError("body", rule, f"{size} bytes")
        raise PayloadTooLarge(f"body: {rule}, got {size}; {SMALLER}", [error])
