"""Connections to Redis on an event loop: commands, responses, messages, and budgets for them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

import hiredis
import redis
from redis.exceptions import ConnectionError as LostConnection

from service.state.address import Address
from service.state.errors import StateTimeout

T = TypeVar("T")
Take = Callable[[Any], None]  # takes a response, or the error in its place

TURN_S = 0.001  # in which an event loop reads what has arrived
UNREAD = object()  # in place of a response that is not complete


class Waiting(Generic[T]):
    """A response that is awaited for the time of a budget.

    An event loop that was busy, for example with a run of the model, comes to the end of the budget
    before it reads the response that has arrived meanwhile. So it gets one more turn for that; and
    if it came late, half a budget more, as it may have sent the command late too.
    """

    # Annotations state T: a call of Waiting[T] takes longer than the rest of making one.
    __slots__ = ("_budget_s", "_due", "_late", "_loop", "_timer", "future")

    def __init__(self, budget_s: float, late: Callable[[], Exception]) -> None:
        """late: returns the error of a lookup that is given up."""
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()
        self._budget_s, self._late = budget_s, late
        self._due = time.monotonic() + budget_s
        self._timer = self._loop.call_later(budget_s, self._end)

    async def response(self) -> T:
        """Return the response. Raises the error of a late one."""
        try:
            return await self.future
        finally:
            self._timer.cancel()

    def _end(self) -> None:
        behind_s = time.monotonic() - self._due
        more_s = 0.5 * self._budget_s if behind_s > 0.25 * self._budget_s else 0.0
        self._timer = self._loop.call_later(max(TURN_S, more_s), self._give_up)

    def _give_up(self) -> None:
        if not self.future.done():
            self.future.set_exception(self._late())


class Connection(asyncio.Protocol):
    """A connection that sends commands before earlier ones have their responses.

    redis-py takes several times as long for a command, most of it in Python: it hands a connection
    from call to call, and reads it by a stream.

    on_push: is called with each message that is no response, in the order of the stream.
    """

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        """on_lost: is called once, with the connection."""
        self._on_lost = on_lost
        self.on_push: Callable[[Sequence[Any]], None] | None = None
        self._parser = hiredis.Reader(replyError=redis.ResponseError, notEnoughData=UNREAD)
        self._transport: asyncio.Transport
        self._waiting: deque[Take] = deque()
        self._since = 0.0  # time of the last response, or of the first command after it

    def __len__(self) -> int:
        """Return the number of commands without a response."""
        return len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def send(self, commands: bytes, *takes: Take) -> None:
        """Send packed commands, and call a function with the response to each."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += takes
        self._transport.write(commands)

    async def call(self, *command: str) -> Any:
        """Return the response to a command. Raises errors of redis-py."""
        response = asyncio.get_running_loop().create_future()
        self.send(packed(*command), partial(settle, response))
        return await response

    def is_stuck(self, limit_s: float) -> bool:
        """True if no response came for so long, although one is due."""
        return bool(self._waiting) and time.monotonic() - self._since > limit_s

    def data_received(self, data: bytes) -> None:
        parser, waiting = self._parser, self._waiting
        parser.feed(data)
        while True:
            try:
                value = parser.gets()
                if value is UNREAD:
                    break
                is_push = type(value) is hiredis.PushNotification
                take = self.on_push if is_push else waiting.popleft()
            except (hiredis.ProtocolError, IndexError):  # no server of this protocol
                self.abort()
                break
            if take is not None:
                take(value)
        self._since = time.monotonic()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._on_lost(self)
        while self._waiting:
            self._waiting.popleft()(LostConnection("the connection was lost"))


def settle(future: asyncio.Future[Any], value: Any) -> None:
    """Make a response, or the error in its place, the result of a future that is not given up."""
    if future.done():
        return
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)


def packed(*command: str | bytes) -> bytes:
    """Return a command as the server reads it."""
    content: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub is wrong
    return content


def late(address: Address, budget_s: float) -> StateTimeout:
    """Return the error of a lookup that is given up."""
    return StateTimeout(f"{address}: no response in {1e3 * budget_s:g} ms")
