"""Lookups in Redis on the event loop of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import redis
from redis.asyncio.cluster import RedisCluster as AsyncCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection

from service.engine.contract import Integers
from service.engine.features.recent_items import Recent, RecentItems
from service.state.address import Address
from service.state.engine import Key
from service.state.redis_connection import Connection, Waiting, late, packed, settle
from service.state.redis_engine import connection_options, redis_errors
from service.state.redis_keys import names_of, names_of_lookup
from service.state.redis_tracking import TrackedItems

logger = logging.getLogger("service")

T = TypeVar("T")
Blobs = list[bytes | None]

CONNECT_S = 2.0  # to wait for a connection, or for a response after its lookup was given up
LOST_STARTS = 2  # connections in a row, after which no server is asked to track
PIPELINED = 16  # commands of one connection that wait, before another one is opened


class RedisReader:
    """Reads entities of one server on an event loop."""

    name = "redis"

    def __init__(
        self,
        address: Address,
        timeout_s: float,
        connections: int,
        recent: RecentItems | None = None,
        connect_s: float = CONNECT_S,
    ) -> None:
        """Connect at the first lookup.

        Args:
            timeout_s: seconds that a lookup may take.
            connections: most connections at a time.
            recent: items that are not read again until the server says that they have changed.
            connect_s: seconds to wait for a connection, or for a response before it is closed.
        """
        self._timeout_s, self._connect_s = timeout_s, connect_s
        self._address, self._prefix, self._most = address, address.prefix.encode(), connections
        self._connections: list[Connection] = []
        self._opening: asyncio.Task[None] | None = None
        self._unsent: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._tls: ssl.SSLContext | None = None
        self._recent = recent  # None too once the server turns out not to track
        self._tracked: TrackedItems | None = None
        self._lost_starts = 0  # connections in a row that were lost before the server tracked

    async def read(self, users: Sequence[str], items: Sequence[str]) -> Blobs:
        """Return the blobs of users, then those of items, None for an absent one.

        Raises EngineError.
        """
        command = packed("MGET", *names_of_lookup(users, items, self._prefix))
        blobs: Blobs = await self._retried(partial(self._call, command))
        return blobs

    async def read_recent(
        self, users: Sequence[str], items: Sequence[str], handles: Integers, recent: RecentItems
    ) -> tuple[Blobs, Blobs, Recent | None]:
        """Return the blobs of users and of items, and the items in `recent`, None without them.

        Items that the server tracks are read only if they may have changed. handles: of the items.
        Raises EngineError.
        """
        if self._recent is None:
            return remembered(await self.read(users, items), len(users), items, recent)
        call: Callable[[float], Awaitable[tuple[Blobs, Blobs, Recent | None]]]
        if recent is self._recent and self._usable() is not None:
            call = partial(self._read_tracked, users, items, handles, recent.drops)
        else:
            call = partial(self._read_all, users, items)
        of_users, of_items, kept = await self._retried(call)
        recent.bytes_read += size_of(of_users) + (size_of(of_items) if kept is None else 0)
        return of_users, of_items, kept

    async def _read_all(
        self, users: Sequence[str], items: Sequence[str], budget_s: float
    ) -> tuple[Blobs, Blobs, Recent | None]:
        """Read without a trace in the items that are tracked: the order of reads is unknown."""
        command = packed("MGET", *names_of_lookup(users, items, self._prefix))
        blobs = await self._call(command, budget_s)
        return blobs[: len(users)], blobs[len(users) :], None

    async def _read_tracked(
        self,
        users: Sequence[str],
        items: Sequence[str],
        handles: Integers,
        drops: int,
        budget_s: float,
    ) -> tuple[Blobs, Blobs, Recent | None]:
        tracked = self._usable()
        if tracked is None:  # the connection was lost
            return await self._read_all(users, items, budget_s)
        recent = tracked.recent
        if recent.drops != drops:
            handles = recent.find(items)
        of_users, handles = await tracked.read(users, items, handles, budget_s)
        return of_users, recent.blobs(handles), recent.recent(handles)

    def _usable(self) -> TrackedItems | None:
        """Return the items that are tracked, None without a connection that responds."""
        tracked = self._tracked
        if tracked is not None and tracked.connection.is_stuck(self._connect_s):
            tracked.connection.abort()
            self._end_tracking()
        return self._tracked

    def _end_tracking(self) -> None:
        """Forget what was tracked; the next connection that opens tracks anew.

        All connections close, so that one opens.
        """
        if self._tracked is not None:
            self._tracked.recent.outdate()
            self._tracked = None
            connections, self._connections = self._connections, []
            for connection in connections:
                connection.abort()

    async def _retried(self, call: Callable[[float], Awaitable[T]]) -> T:
        """Return the result of a call within the budget. Raises EngineError."""
        began = time.monotonic()
        try:
            try:
                return await call(self._timeout_s)
            except LostConnection:  # for example one that the server closed while it was idle
                rest_s = self._timeout_s - (time.monotonic() - began)
                return await call(max(0.0, rest_s))
        except Exception:
            with redis_errors(self._address):
                raise

    async def keep_open(self) -> None:
        """Use a connection, so that the next lookup need not open one. Raises EngineError."""
        (name,) = names_of([Key("load", "none")], self._prefix)
        with redis_errors(self._address):
            await self._call(packed("MGET", name), self._connect_s)
        if self._tracked is not None:
            self._tracked.outdate_old()

    async def _call(self, command: bytes, budget_s: float) -> Any:
        """Return the response to a packed command. Raises errors of redis-py, or StateTimeout."""
        waiting: Waiting[Any] = Waiting(budget_s, lambda: late(self._address, budget_s))
        connection = self._choose()
        if connection is None:
            self._unsent.append((command, waiting.future))
        else:
            connection.send(command, partial(settle, waiting.future))
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
                    connection.send(command, partial(settle, response))
        finally:
            self._unsent.clear()
            self._opening = None

    def _fail(self, error: Exception) -> None:
        for _, response in self._unsent:
            settle(response, error)

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
                await connection.call(*command)
            if self._recent is not None and self._tracked is None:
                await self._track(connection, self._recent)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _track(self, connection: Connection, recent: RecentItems) -> None:
        """Have the server track the items of a connection, unless it cannot.

        Raises ConnectionError of redis-py.
        """
        try:
            self._tracked = await TrackedItems.start(connection, recent, self._address)
        except redis.ResponseError as error:
            self._recent = None
            logger.info("%s: each lookup reads all of its items: %s", self._address, error)
        except LostConnection:  # a proxy may close a connection instead of an answer
            self._lost_starts += 1
            if self._lost_starts == LOST_STARTS:
                self._recent = None
            raise
        self._lost_starts = 0

    def _on_lost(self, connection: Connection) -> None:
        with contextlib.suppress(ValueError):  # of one that is not logged in yet
            self._connections.remove(connection)
        if self._tracked is not None and self._tracked.connection is connection:
            self._end_tracking()

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
        waiting: Waiting[Blobs] = Waiting(
            self._timeout_s, lambda: late(self._address, self._timeout_s)
        )
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
    address: Address, timeout_s: float, connections: int, recent: RecentItems | None = None
) -> RedisReader | ClusterReader:
    """Return a reader of a server or cluster; arguments as of RedisReader."""
    if address.cluster:
        return ClusterReader(address, timeout_s, connections)
    return RedisReader(address, timeout_s, connections, recent)


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
