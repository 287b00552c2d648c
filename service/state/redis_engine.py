"""Entities in Redis, or in a server that speaks its protocol: Valkey, Dragonfly, a cluster."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as LateResponse
from redis.retry import Retry

from service.state.address import Address
from service.state.engine import (
    SCAN_BATCH,
    WINDOW_S,
    Change,
    Health,
    Key,
    Kind,
    Value,
    change_in_order,
    now_ms,
    places_by_key,
)
from service.state.errors import EngineError, StateFull, StateTimeout, StateUnavailable
from service.state.redis_health import health_of
from service.state.redis_keys import (
    COMPARE_AND_SET,
    compare_arguments,
    id_of,
    mark_of,
    marks_name,
    name_of,
    names_of,
    pattern_of,
    set_arguments,
)

MAX_ATTEMPTS = 50  # of a change that other writers overtake
BACK_OFF_S = 0.001  # longest wait before the second attempt; it grows up to tenfold
TRANSACTION = 256  # commands that the server runs without a pause, in a few ms
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

    def __init__(
        self,
        address: Address,
        timeout_s: float = 5.0,
        connections: int = 4,
        window_s: float = WINDOW_S,
    ) -> None:
        """Connect at the first call.

        Args:
            timeout_s: seconds to wait for a connection, and for each response.
            connections: most connections at a time.
            window_s: for which marks are kept.
        """
        self._window_ms = round(1e3 * window_s)
        self._address, self._prefix = address, address.prefix.encode()
        options = connection_options(address) | {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 1, supported_errors=(LostConnection,)),
        }
        self._client: Any = None
        with redis_errors(address):
            if address.cluster:
                self._client = RedisCluster(**options)
            else:
                pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
                    max_connections=connections, timeout=timeout_s, **_for_pool(options)
                )
                self._client = redis.Redis(connection_pool=pool)

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        return self._get(names_of(keys, self._prefix))

    def _get(self, names: Sequence[bytes]) -> list[bytes | None]:
        if not names:
            return []
        with redis_errors(self._address):
            if self._address.cluster:
                return list(self._client.mget_nonatomic(names))
            return list(self._client.mget(names))

    def put_many(self, entries: Sequence[tuple[Key, Value]]) -> None:
        arguments = [set_arguments(name_of(key, self._prefix), value) for key, value in entries]
        self._call_many([("SET", *each) for each in arguments])

    def update_many(
        self, keys: Sequence[Key], change: Change, once: Sequence[bytes | None] | None = None
    ) -> list[bool]:
        """Compare and set each entity; Redis keeps those before an error."""
        places, made = places_by_key(keys, once)
        names = dict(zip(places, names_of(list(places), self._prefix), strict=True))
        marks: list[bytes | None] = [None] * len(keys)
        if once is not None:
            for place, (key, mark) in enumerate(zip(keys, once, strict=True)):
                marks[place] = None if mark is None else mark_of(names[key], key.kind, mark)
        for attempt in range(MAX_ATTEMPTS):
            if attempt:  # writers that overtake each other in step would do so again
                time.sleep(random.uniform(0.0, BACK_OFF_S * min(attempt, 10)))
            blobs = self._get([names[key] for key in places])
            now = now_ms()
            calls = []
            for key, old in zip(places, blobs, strict=True):
                value = change_in_order(places[key], old, change)
                kept = [mark for place in places[key] if (mark := marks[place]) is not None]
                if value is None and not kept:
                    continue
                both = names[key], marks_name(names[key], key.kind)
                arguments = compare_arguments(both, old, value, kept, now, self._window_ms)
                calls.append((key, ("EVAL", COMPARE_AND_SET, 2, *arguments)))
            results = self._call_many([call for _, call in calls])
            later = {}
            for (key, _), result in zip(calls, results, strict=True):
                if result == 1:
                    continue
                if isinstance(result, list):  # the marks of changes that were made before
                    for place in places[key]:
                        made[place] = marks[place] not in result
                remaining = [place for place in places[key] if made[place]]
                if remaining:
                    later[key] = remaining
            if not later:
                return made
            places = later
        raise StateUnavailable(
            f"{self._address}: {len(places)} entities changed {MAX_ATTEMPTS} times while they were "
            "written; send fewer writes of one entity at a time"
        )

    def delete(self, keys: Sequence[Key]) -> int:
        names = names_of(keys, self._prefix)
        calls = [("DEL", name) for name in names]
        for key, name in zip(keys, names, strict=True):
            if key.kind == "user":  # the name of its marks has the id
                calls.append(("DEL", marks_name(name, key.kind)))
        return sum(self._call_many(calls)[: len(keys)])

    def _call_many(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together and return their responses.

        A server that syncs each write would sync at each 16 KiB that it reads of a long pipeline.
        It syncs once for a transaction, which is short, as it holds up all readers.
        """
        if self._address.cluster:
            return self._call(self._client.pipeline, calls) if calls else []
        responses: list[Any] = []
        for start in range(0, len(calls), TRANSACTION):
            part = calls[start : start + TRANSACTION]
            pipeline = partial(self._client.pipeline, transaction=len(part) > 1)
            responses += self._call(pipeline, part)
        return responses

    def _call(self, new_pipeline: Callable[[], Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        with redis_errors(self._address), new_pipeline() as pipeline:
            for call in calls:
                pipeline.execute_command(*call)
            # The errors of a pipeline would name the command, and with it the entity.
            try:
                responses = list(pipeline.execute(raise_on_error=False))
            except redis.ResponseError as error:  # a transaction that was refused as a whole
                raise type(error)(str(error).rpartition("caused error: ")[2]) from None
            for response in responses:
                if isinstance(response, Exception):
                    raise response
            return responses

    def scan(self, kind: Kind) -> Iterator[list[tuple[str, Value]]]:
        pattern = pattern_of(kind, self._prefix)
        names: list[bytes] = []
        with redis_errors(self._address):
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
        with redis_errors(self._address):
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
        with redis_errors(self._address):
            if self._address.cluster:
                for node in self._client.get_primaries():
                    self._client.execute_command("BGREWRITEAOF", target_nodes=node)
            else:
                self._client.bgrewriteaof()

    def close(self) -> None:
        self._client.close()
        if not self._address.cluster:
            self._client.connection_pool.disconnect()


def _for_pool(options: Mapping[str, Any]) -> Any:
    """Return the options of a client as those of its pool."""
    of_pool = dict(options)
    if of_pool.pop("ssl", False):
        of_pool["connection_class"] = redis.SSLConnection
    return of_pool


@contextlib.contextmanager
def redis_errors(address: Address) -> Iterator[None]:
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
    except (redis.RedisError, RedisClusterException, OSError, UnicodeError) as error:
        raise StateUnavailable(f"{address}: {error}") from None
