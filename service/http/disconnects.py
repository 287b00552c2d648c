"""Cancellation of work whose client has disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")

# Key in a request's state of the callback that service.http.protocol calls on a disconnect.
ON_DISCONNECT = "on_disconnect"


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await the work, or cancel it and raise ClientDisconnect if the client disconnects first."""
    task = asyncio.current_task()
    assert task is not None
    disconnected = False

    def cancel() -> None:
        nonlocal disconnected
        disconnected = True
        task.cancel()

    state = request.scope["state"]
    state[ON_DISCONNECT] = cancel
    try:
        return await work
    except asyncio.CancelledError:
        if not disconnected:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        del state[ON_DISCONNECT]
