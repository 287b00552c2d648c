"""Entities in Redis, or in a server that speaks its protocol: Valkey, Dragonfly, a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.cluster import RedisCluster as AsyncCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as LateResponse
from redis.retry import Retry

from service.state.address import Address
from service.state.engine import (
    SCAN_BATCH,
    Change,
    Health,
    Key,
    Kind,
    Value,
    now_ms,
)
from service.state.errors import EngineError, StateFull, StateTimeout, StateUnavailable
from service.state.redis_keys import (
    COMPARE_AND_SET,
    compare_arguments,
    id_of,
    name_of,
    pattern_of,
    set_arguments,
)

MAX_ATTEMPTS = 50  # of a change that other writers overtake
PRIMARIES = "primaries"


def connection_options(address: Address) -> dict[str, Any]:
    """Return the options that the clients of redis-py share."""
    options: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "username": address.username,
        "password": address.password,
        "protocol": 2,  # every server speaks it
    }
    if not address.cluster:
        options["db"] = address.database
    if address.scheme == "rediss":
        options["ssl"] = True
    return options


class RedisEngine:
    """Calls one server or cluster, and waits for it; for command lines and threads of writers."""

    name = "redis"

    def __init__(self, address: Address, timeout_s: float = 5.0, connections: int = 4) -> None:
        """Connect at the first call.

        Args:
            timeout_s: seconds to wait for a connection, and for each response.
            connections: most connections at a time.
        """
        self._address, self._prefix = address, address.prefix.encode()
        options = connection_options(address) | {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 1, supported_errors=(LostConnection,)),
        }
        self._client: Any = None
        with _errors(address):
            if address.cluster:
                self._client = RedisCluster(**options)
            else:
                pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
                    max_connections=connections, timeout=timeout_s, **_for_pool(options)
                )
                self._client = redis.Redis(connection_pool=pool)

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        return self._get([name_of(key, self._prefix) for key in keys])

    def _get(self, names: Sequence[bytes]) -> list[bytes | None]:
        if not names:
            return []
        with _errors(self._address):
            if self._address.cluster:
                return list(self._client.mget_nonatomic(names))
            return list(self._client.mget(names))

    def put_many(self, entries: Sequence[tuple[Key, Value]]) -> None:
        arguments = [set_arguments(name_of(key, self._prefix), value) for key, value in entries]
        self._call_many([("SET", *each) for each in arguments])

    def update_many(self, keys: Sequence[Key], change: Change) -> None:
        """Compare and set each entity; Redis keeps those before an error."""
        names = [name_of(key, self._prefix) for key in keys]
        places = list(range(len(names)))
        for _ in range(MAX_ATTEMPTS):
            if not places:
                return
            calls, called = [], []
            for place, old in zip(places, self._get([names[p] for p in places]), strict=True):
                value = change(place, old)
                if value is not None:
                    arguments = compare_arguments(names[place], old, value)
                    calls.append(("EVAL", COMPARE_AND_SET, 1, *arguments))
                    called.append(place)
            written = self._call_many(calls)
            places = [place for place, done in zip(called, written, strict=True) if not done]
        raise StateUnavailable(
            f"{self._address}: {len(places)} entities changed {MAX_ATTEMPTS} times while they were "
            "written; send fewer writes of one entity at a time"
        )

    def delete(self, keys: Sequence[Key]) -> int:
        return sum(self._call_many([("DEL", name_of(key, self._prefix)) for key in keys]))

    def _call_many(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together and return their responses."""
        if not calls:
            return []
        with _errors(self._address):
            if self._address.cluster:
                pipeline = self._client.pipeline()
            else:
                pipeline = self._client.pipeline(transaction=False)
            with pipeline:
                for call in calls:
                    pipeline.execute_command(*call)
                # The errors of a pipeline would name the command, and with it the entity.
                responses = list(pipeline.execute(raise_on_error=False))
                for response in responses:
                    if isinstance(response, Exception):
                        raise response
                return responses

    def scan(self, kind: Kind) -> Iterator[list[tuple[str, Value]]]:
        pattern = pattern_of(kind, self._prefix)
        names: list[bytes] = []
        with _errors(self._address):
            for name in self._client.scan_iter(match=pattern, count=SCAN_BATCH):
                names.append(name)
                if len(names) == SCAN_BATCH:
                    yield self._read(names, kind)
                    names = []
        if names:
            yield self._read(names, kind)

    def _read(self, names: Sequence[bytes], kind: Kind) -> list[tuple[str, Value]]:
        blobs, now = self._get(names), now_ms()
        remaining = self._call_many([("PTTL", name) for name in names])
        return [
            (id_of(name, kind, self._prefix), Value(blob, now + left if left >= 0 else None))
            for name, blob, left in zip(names, blobs, remaining, strict=True)
            if blob is not None
        ]

    def health(self) -> Health:
        with _errors(self._address):
            if self._address.cluster:
                infos = self._client.info(target_nodes=PRIMARIES)
                infos = list(infos.values()) if "role" not in infos else [infos]
                entities = self._client.dbsize(target_nodes=PRIMARIES)
            else:
                infos, entities = [self._client.info()], self._client.dbsize()
        return health_of(infos, entities, self._fsync())

    def _fsync(self) -> str | None:
        """Return the server's setting appendfsync, None if it does not tell."""
        with contextlib.suppress(redis.RedisError, RedisClusterException):
            if self._address.cluster:
                node = self._client.get_random_node()
                values = self._client.config_get("appendfsync", target_nodes=node)
            else:
                values = self._client.config_get("appendfsync")
            return str(values["appendfsync"]) if "appendfsync" in values else None
        return None

    def compact(self) -> None:
        """Start a rewrite of the server's file; it goes on in the background."""
        with _errors(self._address):
            if self._address.cluster:
                for node in self._client.get_primaries():
                    self._client.execute_command("BGREWRITEAOF", target_nodes=node)
            else:
                self._client.bgrewriteaof()

    def close(self) -> None:
        self._client.close()
        if not self._address.cluster:
            self._client.connection_pool.disconnect()


class RedisReader:
    """Reads entities on an event loop."""

    name = "redis"

    def __init__(
        self, address: Address, timeout_s: float, connections: int, connect_s: float = 2.0
    ) -> None:
        """Connect at the first lookup.

        Args:
            timeout_s: seconds that a lookup may take.
            connections: most connections at a time; to each server, of a cluster.
            connect_s: seconds to wait for a connection or a response after the lookup is given up.
        """
        self._timeout_s = timeout_s
        self._address, self._prefix = address, address.prefix.encode()
        options = connection_options(address) | {
            "socket_timeout": connect_s,
            "socket_connect_timeout": connect_s,
            "retry": AsyncRetry(NoBackoff(), 1, supported_errors=(LostConnection,)),
        }
        # The client of a cluster refuses a call without a free connection instead of waiting.
        self._free = asyncio.Semaphore(connections)
        if address.cluster:
            self._client: Any = AsyncCluster(**options)
        else:
            pool = redis.asyncio.BlockingConnectionPool(
                max_connections=connections,
                timeout=connect_s,
                **_for_pool(options, redis.asyncio.SSLConnection),
            )
            self._client = AsyncRedis(connection_pool=pool)

    async def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """Return the blob of each entity, None for one that is absent. Raises EngineError."""
        names = [name_of(key, self._prefix) for key in keys]
        # A lookup that is given up goes on: a cancelled one would lose its connection, and where
        # connecting takes longer than a lookup may, none would ever be open.
        task = asyncio.ensure_future(self._get(names))
        await asyncio.wait([task], timeout=self._timeout_s)
        if not task.done():
            task.add_done_callback(_retrieve)
            raise StateTimeout(f"{self._address}: no response in {1e3 * self._timeout_s:g} ms")
        return task.result()

    async def keep_open(self) -> None:
        """Use a connection, so that the next lookup need not open one. Raises EngineError."""
        await self._get([name_of(Key("load", "none"), self._prefix)])

    async def _get(self, names: Sequence[bytes]) -> list[bytes | None]:
        with _errors(self._address):
            if self._address.cluster:
                async with self._free:
                    return list(await self._client.mget_nonatomic(names))
            return list(await self._client.mget(names))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        if not self._address.cluster:
            await self._client.connection_pool.disconnect()


def _retrieve(task: asyncio.Future[list[bytes | None]]) -> None:
    """Retrieve the error of a lookup that was given up, which asyncio would log."""
    if not task.cancelled():
        task.exception()


def _for_pool(options: Mapping[str, Any], ssl_connection: Any = redis.SSLConnection) -> Any:
    """Return the options of a client as those of its pool."""
    of_pool = dict(options)
    if of_pool.pop("ssl", False):
        of_pool["connection_class"] = ssl_connection
    return of_pool


def health_of(infos: Sequence[Mapping[str, Any]], entities: int, fsync: str | None) -> Health:
    """Return the condition of servers by the sections of INFO."""
    notes = []
    durable: bool | None = fsync == "always"
    if not all(info.get("aof_enabled") for info in infos):
        durable = False
        notes.append("appendonly is off: a restart may lose writes")
    elif fsync is None:
        durable = None
    elif not durable:
        notes.append(f"appendfsync is {fsync}: a power cut may lose the last second of writes")
    for policy in {str(info.get("maxmemory_policy", "noeviction")) for info in infos}:
        if policy != "noeviction":
            notes.append(f"maxmemory-policy is {policy}: the server drops entities when it is full")
    lag = max(
        (
            float(info.get("master_last_io_seconds_ago", 0))
            for info in infos
            if info.get("role") == "slave"
        ),
        default=0.0,
    )
    size = sum(int(info.get("used_memory", 0)) for info in infos)
    return Health({"all": entities}, size, durable, max(lag, 0.0), notes)


@contextlib.contextmanager
def _errors(address: Address) -> Iterator[None]:
    """Raise the errors of redis-py as those of the store."""
    try:
        yield
    except LateResponse:
        raise StateTimeout(f"{address}: no response in time") from None
    except redis.OutOfMemoryError:
        raise StateFull(
            f"{address}: the server has reached maxmemory; raise it, or delete entities"
        ) from None
    except redis.exceptions.ClusterError as error:
        raise StateUnavailable(f"{address}: {error}") from None
    except redis.ResponseError as error:
        if str(error).startswith("OOM"):
            raise StateFull(f"{address}: {error}") from None
        raise EngineError(f"{address}: {error}") from None
    except (redis.RedisError, RedisClusterException, OSError) as error:
        raise StateUnavailable(f"{address}: {error}") from None
