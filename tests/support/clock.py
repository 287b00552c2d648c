"""A clock for the batcher that moves only when a test advances it."""

import asyncio
import heapq
import itertools

PASSES = 50  # of the event loop: enough for every task that is ready to come to rest


async def settle():
    """Let every task that can go on do so."""
    for _ in range(PASSES):
        await asyncio.sleep(0)


class FakeClock:
    """Implements service.batching.clock.Clock."""

    def __init__(self, now=1000.0):
        self._now = now
        self._timers, self._number = [], itertools.count()

    def monotonic(self):
        return self._now

    async def wait(self, event, timeout_s):
        timer = asyncio.get_running_loop().create_future()
        heapq.heappush(self._timers, (self._now + timeout_s, next(self._number), timer))
        arrival = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait([arrival, timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
            timer.cancel()
        return event.is_set()

    def spend(self, seconds):
        """Let time pass without a wait ending: the event loop was busy."""
        self._now += seconds

    async def advance(self, seconds):
        """Let time pass; waits end at their time, in order, and tasks go on in between."""
        await settle()
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if not timer.done():
                timer.set_result(None)
                await settle()
        self._now = end
        await settle()
