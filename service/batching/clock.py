"""The batcher's source of time, so that tests can replace it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time and waiting with a timeout; all values in seconds."""

    def monotonic(self) -> float:
        """Return the time now; only differences have a meaning."""

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait for the event, at most `timeout_s`; return False if the time ran out first."""


class SystemClock:
    """The machine's monotonic clock and the running event loop."""

    monotonic = staticmethod(time.monotonic)

    async def wait(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait for the event, at most `timeout_s`; return False if the time ran out first."""
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
