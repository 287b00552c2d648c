"""Lookups in Redis on the event loop of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import hiredis
import redis
from redis.asyncio.cluster import RedisCluster as AsyncCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection

from service.engine.contract import Integers
from service.engine.features.recent_items import Recent, RecentItems
from service.state.address import Address
from service.state.engine import Key
from service.state.errors import StateTimeout
from service.state.redis_engine import connection_options, redis_errors
from service.state.redis_keys import names_of, names_of_lookup

T = TypeVar("T")
Blobs = list[bytes | None]

CONNECT_S = 2.0  # to wait for a connection, or for a response after its lookup was given up
PIPELINED = 16  # commands of one connection that wait, before another one is opened
TURN_S = 0.001  # in which an event loop reads what has arrived
UNREAD = object()  # in place of a response that is not complete


class Waiting(Generic[T]):
    """A response that is awaited for the time of a budget.

    An event loop that was busy, for example with a run of the model, comes to the end of the budget
    before it reads the response that has arrived meanwhile. So it gets one more turn for that; and
    if it came late, half a budget more, as it may have sent the command late too.
    """

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
    """

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        """on_lost: is called once, with the connection."""
        self._on_lost = on_lost
        self._parser = hiredis.Reader(replyError=redis.ResponseError, notEnoughData=UNREAD)
        self._transport: asyncio.Transport
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._since = 0.0  # time of the last response, or of the first command after it

    def __len__(self) -> int:
        """Return the number of commands without a response."""
        return len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def send(self, command: bytes, response: asyncio.Future[Any]) -> None:
        """Send a packed command; its response becomes the result of the future."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(response)
        self._transport.write(command)

    def is_stuck(self, limit_s: float) -> bool:
        """True if no response came for so long, although one is due."""
        return bool(self._waiting) and time.monotonic() - self._since > limit_s

    def data_received(self, data: bytes) -> None:
        parser, waiting = self._parser, self._waiting
        parser.feed(data)
        try:
            while (value := parser.gets()) is not UNREAD:
                response = waiting.popleft()
                if response.done():  # given up
                    continue
                if isinstance(value, Exception):
                    response.set_exception(value)
                else:
                    response.set_result(value)
        except (hiredis.ProtocolError, IndexError):  # no server of this protocol
            self.abort()
        self._since = time.monotonic()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._on_lost(self)
        while self._waiting:
            response = self._waiting.popleft()
            if not response.done():
                response.set_exception(LostConnection("the connection was lost"))


class RedisReader:
    """Reads entities of one server on an event loop."""

    name = "redis"

    def __init__(
        self, address: Address, timeout_s: float, connections: int, connect_s: float = CONNECT_S
    ) -> None:
        """Connect at the first lookup.

        Args:
            timeout_s: seconds that a lookup may take.
            connections: most connections at a time.
            connect_s: seconds to wait for a connection, or for a response before it is closed.
        """
        self._timeout_s, self._connect_s = timeout_s, connect_s
        self._address, self._prefix, self._most = address, address.prefix.encode(), connections
        self._connections: list[Connection] = []
        self._opening: asyncio.Task[None] | None = None
        self._unsent: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._tls: ssl.SSLContext | None = None

    async def read(self, users: Sequence[str], items: Sequence[str]) -> Blobs:
        """Return the blobs of users, then those of items, None for an absent one.

        Raises EngineError.
        """
        names = names_of_lookup(users, items, self._prefix)
        command = packed("MGET", *names)
        began = time.monotonic()
        try:
            try:
                blobs: Blobs = await self._call(command, self._timeout_s)
            except LostConnection:  # for example one that the server closed while it was idle
                rest_s = self._timeout_s - (time.monotonic() - began)
                blobs = await self._call(command, max(0.0, rest_s))
        except Exception:
            with redis_errors(self._address):
                raise
        return blobs

    async def read_recent(
        self, users: Sequence[str], items: Sequence[str], handles: Integers, recent: RecentItems
    ) -> tuple[Blobs, Blobs, Recent | None]:
        """Return the blobs of users and of items, and the items in `recent`. Raises EngineError."""
        return remembered(await self.read(users, items), len(users), items, recent)

    async def keep_open(self) -> None:
        """Use a connection, so that the next lookup need not open one. Raises EngineError."""
        (name,) = names_of([Key("load", "none")], self._prefix)
        with redis_errors(self._address):
            await self._call(packed("MGET", name), self._connect_s)

    async def _call(self, command: bytes, budget_s: float) -> Any:
        """Return the response to a packed command. Raises errors of redis-py, or StateTimeout."""
        waiting = Waiting[Any](budget_s, lambda: late(self._address, budget_s))
        connection = self._choose()
        if connection is None:
            self._unsent.append((command, waiting.future))
        else:
            connection.send(command, waiting.future)
        return await waiting.response()

    def _choose(self) -> Connection | None:
        """Return the connection with the fewest commands, None until one is open."""
        connections = []
        for connection in self._connections:
            if connection.is_stuck(self._connect_s):
                connection.abort()
            else:
                connections.append(connection)
        chosen = min(connections, key=len, default=None)
        busy = chosen is None or len(chosen) >= PIPELINED
        if busy and len(connections) < self._most and self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        return chosen

    async def _open(self) -> None:
        """Open a connection, and send what waits for one."""
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await self._connect()
        except Exception as error:
            if isinstance(error, TimeoutError):
                error = late(self._address, self._connect_s)
            self._fail(error)
        else:
            self._connections.append(connection)
            for command, response in self._unsent:
                if not response.done():
                    connection.send(command, response)
        finally:
            self._unsent.clear()
            self._opening = None

    def _fail(self, error: Exception) -> None:
        for _, response in self._unsent:
            if not response.done():
                response.set_exception(error)

    async def _connect(self) -> Connection:
        """Return a connection that is logged in. Raises OSError or errors of redis-py."""
        loop, address = asyncio.get_running_loop(), self._address
        if address.scheme == "rediss" and self._tls is None:
            # On a thread, and once: it reads the certificates of all authorities, in milliseconds.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        _, connection = await loop.create_connection(
            lambda: Connection(self._on_lost), address.host, address.port, ssl=self._tls
        )
        commands: list[tuple[str, ...]] = []
        if address.username is not None:
            commands.append(("AUTH", address.username, address.password or ""))
        elif address.password is not None:
            commands.append(("AUTH", address.password))
        if address.database:
            commands.append(("SELECT", str(address.database)))
        try:
            for command in commands:
                response = loop.create_future()
                connection.send(packed(*command), response)
                await response
        except BaseException:
            connection.abort()
            raise
        return connection

    def _on_lost(self, connection: Connection) -> None:
        with contextlib.suppress(ValueError):  # of one that is not logged in yet
            self._connections.remove(connection)

    async def close(self) -> None:
        """Close the connections."""
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        for connection in self._connections:
            connection.abort()
        await asyncio.sleep(0)  # a transport closes in the next turn of the loop


class ClusterReader:
    """Reads entities of a cluster on an event loop, by redis-py, which knows its servers."""

    name = "redis"

    def __init__(self, address: Address, timeout_s: float, connections: int) -> None:
        """Connect at the first lookup; arguments as of RedisReader."""
        self._timeout_s, self._address = timeout_s, address
        self._prefix = address.prefix.encode()
        options = connection_options(address) | {
            "socket_connect_timeout": CONNECT_S,
            "retry": AsyncRetry(NoBackoff(), 1, supported_errors=(LostConnection,)),
        }
        # The pools of redis-py refuse a call without a free connection, or take longer to wait.
        self._free = asyncio.Semaphore(connections)
        self._client: Any = AsyncCluster(**options)

    async def read(self, users: Sequence[str], items: Sequence[str]) -> Blobs:
        """Return the blobs of users, then those of items, None for an absent one.

        Raises EngineError.
        """
        loop, names = asyncio.get_running_loop(), names_of_lookup(users, items, self._prefix)
        waiting = Waiting[Blobs](self._timeout_s, lambda: late(self._address, self._timeout_s))
        # A lookup that is given up goes on: a cancelled one would lose its connection, and where
        # connecting takes longer than a lookup may, none would ever be open.
        task = loop.create_task(self._resolve(waiting.future, names))
        try:
            return await waiting.response()
        finally:
            if not task.done():
                loop.call_later(CONNECT_S, task.cancel)

    async def read_recent(
        self, users: Sequence[str], items: Sequence[str], handles: Integers, recent: RecentItems
    ) -> tuple[Blobs, Blobs, Recent | None]:
        """Return the blobs of users and of items, and the items in `recent`. Raises EngineError."""
        return remembered(await self.read(users, items), len(users), items, recent)

    async def keep_open(self) -> None:
        """Use a connection, so that the next lookup need not open one. Raises EngineError."""
        names = names_of([Key("load", "none")], self._prefix)
        try:
            await asyncio.wait_for(self._get(names), CONNECT_S)
        except TimeoutError:
            raise late(self._address, CONNECT_S) from None

    async def _resolve(self, blobs: asyncio.Future[Blobs], names: Sequence[bytes]) -> None:
        """Read entities into a future, unless the lookup was given up meanwhile."""
        try:
            values = await self._get(names)
        except Exception as error:
            if not blobs.done():
                blobs.set_exception(error)
        else:
            if not blobs.done():
                blobs.set_result(values)

    async def _get(self, names: Sequence[bytes]) -> Blobs:
        with redis_errors(self._address):
            async with self._free:
                return list(await self._client.mget_nonatomic(names))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def open_reader(
    address: Address, timeout_s: float, connections: int
) -> RedisReader | ClusterReader:
    """Return a reader of a server or cluster; arguments as of RedisReader."""
    kind = ClusterReader if address.cluster else RedisReader
    return kind(address, timeout_s, connections)


def remembered(
    blobs: Blobs, users: int, items: Sequence[str], recent: RecentItems
) -> tuple[Blobs, Blobs, Recent | None]:
    """Return the blobs of so many users, and of items that were read with them, kept in `recent`.

    Their rows are found by handles then, although each lookup reads them.
    """
    of_users, of_items = blobs[:users], blobs[users:]
    handles = recent.find(items)
    recent.put(handles.tolist(), of_items)
    recent.bytes_read += size_of(of_users)
    return of_users, of_items, recent.recent(handles)


def size_of(blobs: Blobs) -> int:
    """Return the number of bytes of the blobs that are there."""
    return sum(map(len, filter(None, blobs)))


def packed(*command: str | bytes) -> bytes:
    """Return a command as the server reads it."""
    content: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub is wrong
    return content


def late(address: Address, budget_s: float) -> StateTimeout:
    """Return the error of a lookup that is given up."""
    return StateTimeout(f"{address}: no response in {1e3 * budget_s:g} ms")
