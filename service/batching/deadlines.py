"""Deadlines of futures, enforced with one timer for all of them."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from service.errors import DeadlineExceeded

# The event loop rounds timers to milliseconds. One that is early would find its deadline ahead.
RESOLUTION_S = 0.001


class Deadlines:
    """Fails futures that are not done by their deadline; belongs to one event loop.

    A timer for each future would be set and cancelled for every request, and almost none expires.
    The one timer is set for the nearest deadline when it is set, and not moved as futures complete.
    """

    def __init__(self) -> None:
        self._deadlines: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf  # the time of the timer

    def watch(self, future: asyncio.Future[Any], deadline: float) -> None:
        """End the future in DeadlineExceeded at a time of time.monotonic(), unless it is done."""
        self._deadlines[future] = deadline
        if deadline < self._due:
            self._set_timer(deadline)

    def release(self, future: asyncio.Future[Any]) -> None:
        """Forget a future, watched or not."""
        self._deadlines.pop(future, None)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, due - time.monotonic()) + RESOLUTION_S
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)
        self._due = due

    def _expire(self) -> None:
        self._timer, self._due = None, math.inf
        now, nearest = time.monotonic(), math.inf
        for future, deadline in self._deadlines.items():
            if future.done():
                continue
            if deadline > now:
                nearest = min(nearest, deadline)
            else:
                future.set_exception(DeadlineExceeded("the deadline passed during the run"))
        if nearest < math.inf:
            self._set_timer(nearest)
