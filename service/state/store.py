"""The entity store as a worker uses it: lookups with a budget, health, metrics.

A lookup never raises: an engine that is down, slow or full of noise makes ranking go on with what
the request and the bundle know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol

from service.engine.contract import Integers
from service.engine.features.recent_items import Recent, RecentItems
from service.metrics import Metrics
from service.settings import Settings
from service.state.address import Address
from service.state.engine import MAX_ID_BYTES, Engine, Health, now_ms
from service.state.entities import User
from service.state.errors import (
    EngineError,
    EntityError,
    StateReplaced,
    StateTimeout,
    StateUnavailable,
)
from service.state.lmdb_engine import LmdbEngine
from service.state.opening import open_engine
from service.state.recent_users import RecentUsers

logger = logging.getLogger("service")

CHECK_S = 5.0  # between two looks at the engine's health
HEALTH_TIMEOUT_S = 2.0
THREAD_CONNECTIONS = 8  # for the threads of uploads and events, and for health
MAX_FAILURES = 5  # consecutive failed lookups before the next ones are skipped
SKIP_S = 1.0  # for which they are skipped, before one is tried again

Blobs = list[bytes | None]
Status = Literal["hit", "miss", "unavailable"]


@dataclass(slots=True)
class UserLookup:
    """The outcome of looking up one user.

    user: set for a hit; age_s: seconds since its last change.
    """

    status: Status
    user: User | None = None
    age_s: float | None = None


MISS, UNAVAILABLE = UserLookup("miss"), UserLookup("unavailable")


@dataclass(slots=True)
class ListLookup:
    """The outcome of looking up one candidate list.

    user: None for a list that leaves nothing of its user to the store; items: the blob of each
    candidate, None for an absent one, and None for all if they could not be read; now: time of the
    lookup in ms since 1970 UTC; recent: the handles of the items, None if they have none.
    """

    user: UserLookup | None
    items: list[bytes | None] | None
    now: int
    recent: Recent | None = None


class Reader(Protocol):
    """Reads entities on an event loop."""

    async def read_recent(
        self, users: Sequence[str], items: Sequence[str], handles: Integers, recent: RecentItems
    ) -> tuple[list[bytes | None], list[bytes | None], Recent | None]:
        """Return the blobs of users and of items, and the items in `recent`, None without them.

        Items may be left unread that `recent` has as they are. handles: of the items. Ids must be
        `keepable`. Raises EngineError.
        """

    async def keep_open(self) -> None:
        """Use a connection, so that the next lookup need not open one. Raises EngineError."""

    async def close(self) -> None:
        """Release connections."""


class EntityStore:
    """Looks up entities for one worker."""

    def __init__(
        self,
        settings: Settings,
        address: Address,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._address, self._metrics = settings, address, metrics
        self._timeout_s, self._clock = settings.state_timeout_ms / 1e3, clock
        self._engine: Engine | None = None
        self._embedded: LmdbEngine | None = None
        self._reader: Reader | None = None
        self._items, self._bytes_counted = RecentItems(), 0
        self._users = RecentUsers()
        self._failures, self._skip_until = 0, 0.0
        self._checks: asyncio.Task[None] | None = None
        self.health: Health | None = None
        self.ping_ms: float | None = None
        self.problem: str | None = "not opened yet"

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics) -> EntityStore | None:
        """Return the store that the settings name, or None."""
        return None if settings.state == "off" else cls(settings, settings.state, metrics)

    async def start(self) -> None:
        """Open the engine, and look at its health from now on. A failure is logged and retried."""
        self._metrics.state_configured.set(1)
        await self._check()
        self._checks = asyncio.create_task(self._check_repeatedly())

    async def close(self) -> None:
        """Release the engine."""
        if self._checks is not None:
            self._checks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._checks
        if self._reader is not None:
            await self._reader.close()
        if self._engine is not None:
            self._engine.close()
        self._reader = self._engine = self._embedded = None

    @property
    def engine(self) -> Engine:
        """The open engine, for threads that read and write. Raises StateUnavailable."""
        if self._engine is None:
            raise StateUnavailable(self.problem or "not open")
        return self._engine

    async def look_up(
        self, users: Sequence[str | None], items: Sequence[Sequence[str]]
    ) -> list[ListLookup]:
        """Look up the users and items of lists within the budget of a lookup, all of them together.

        Args:
            users: id of each list's user, None for one that is not looked up.
            items: ids of each list's candidates.
        """
        began = self._clock()
        wanted = [user for user in users if user is not None]
        listed = items[0] if len(items) == 1 else list(chain.from_iterable(items))
        of_users = list(keepable(wanted))
        try:
            user_blobs, blobs, recent = await self._read(of_users, listed, began)
        except EngineError as error:
            self._record_failure(error, len(wanted), len(keepable(listed)))
            return [ListLookup(None if u is None else UNAVAILABLE, None, now_ms()) for u in users]
        now, blob_of = now_ms(), dict(zip(of_users, user_blobs, strict=True))
        self._metrics.hot.state_duration.observe(self._clock() - began)
        lookups, start = [], 0
        for user, ids in zip(users, items, strict=True):
            outcome = None if user is None else self._user(user, blob_of, now)
            if len(items) == 1:
                return [ListLookup(outcome, blobs, now, recent)]
            part = slice(start, start + len(ids))
            of_list = None if recent is None else recent.part(part)
            lookups.append(ListLookup(outcome, blobs[part], now, of_list))
            start += len(ids)
        return lookups

    async def _read(
        self, users: Sequence[str], items: Sequence[str], began: float
    ) -> tuple[Blobs, Blobs, Recent | None]:
        """Return the blobs of users and those of items, which may be repeated, and the items.

        Raises EngineError.
        """
        embedded, reader = self._embedded, self._reader
        if not users and not items:
            return [], [], None
        if embedded is None and reader is None:
            raise EngineError(self.problem or "not open")
        if self._failures >= MAX_FAILURES:
            if began < self._skip_until:
                raise EngineError("skipped after failures")
            self._skip_until = began + SKIP_S
        recent, ids, handles = self._items, items, None
        if 2 * len(items) <= recent.size:
            handles = recent.handles_of(items)
        if handles is None:
            ids = list(keepable(items))
            if 2 * len(ids) > recent.size:
                recent = RecentItems(2 * len(ids))
            handles = recent.find(ids)
        blobs: Blobs
        of_ids: Recent | None
        if embedded is not None:  # read here: a switch to another thread takes more time
            blobs = embedded.read(users, ids, handles, recent)
            of_items, of_ids = recent.blobs(handles), recent.recent(handles)
        else:
            assert reader is not None
            blobs, of_items, of_ids = await reader.read_recent(users, ids, handles, recent)
        self._count_bytes(recent)
        self._failures = 0
        if len(ids) < len(items):  # some are repeated, or no store can keep them
            blob_of = dict(zip(ids, of_items, strict=True))
            return blobs, list(map(blob_of.get, items)), None
        return blobs, of_items, of_ids if recent is self._items else None

    def _count_bytes(self, recent: RecentItems) -> None:
        """Count the bytes that were read since the last lookup."""
        counted = self._bytes_counted if recent is self._items else 0
        self._metrics.hot.state_bytes.add(recent.bytes_read - counted)
        if recent is self._items:
            self._bytes_counted = recent.bytes_read

    def _record_failure(self, error: EngineError, users: int, items: int) -> None:
        result = "timeout" if isinstance(error, StateTimeout) else "error"
        self._metrics.state_lookups[result].inc(users)
        self._metrics.state_item_lookups[result].inc(items)
        self._failures += 1
        if self._failures == MAX_FAILURES:
            self._skip_until = self._clock() + SKIP_S
            logger.warning("%s: %d lookups in a row failed: %s", self._address, MAX_FAILURES, error)

    def _user(self, user_id: str, blobs: Mapping[str, bytes | None], now: int) -> UserLookup:
        metrics, blob = self._metrics, blobs.get(user_id)
        if blob is None:
            self._users.forget(user_id)
            metrics.state_lookups["miss"].inc()
            return MISS
        try:
            user = self._users.user(user_id, blob)
        except EntityError:
            metrics.state_lookups["corrupt"].inc()
            return UNAVAILABLE
        age_s = max(0.0, (now - user.updated_at) / 1e3)
        metrics.hot.state_users_hit.add(1.0)
        metrics.hot.state_age.observe(age_s)
        return UserLookup("hit", user, age_s)

    async def _check_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self._check()

    async def _check(self) -> None:
        """Open the engine if it is not open, and read its health, on another thread."""
        began = time.monotonic()
        try:
            if self._engine is None:
                self._engine = await asyncio.to_thread(
                    open_engine,
                    self._address,
                    self._settings.state_max_gb,
                    HEALTH_TIMEOUT_S,
                    THREAD_CONNECTIONS,
                    window_s=self._settings.state_event_window_s,
                )
                self._items, self._bytes_counted = RecentItems(), 0
                if isinstance(self._engine, LmdbEngine):
                    self._embedded = self._engine
                else:
                    self._reader = self._open_reader()
            health = await asyncio.to_thread(self._engine.health)
            if self._reader is not None:
                await self._reader.keep_open()
        except EngineError as error:
            if self.problem != str(error):
                logger.warning("entity store: %s", error)
            self.problem, self.health, self.ping_ms = str(error), None, None
            self._metrics.state_up.set(0)
            if isinstance(error, StateReplaced):  # dropped, not closed: threads may still use it
                self._engine = self._embedded = None
            return
        if self.problem is not None:
            logger.info("entity store: %s is up", self._address)
        self.problem, self.health = None, health
        self.ping_ms = 1e3 * (time.monotonic() - began)
        self._metrics.state_up.set(1)
        self._metrics.state_size.set(health.bytes or 0)
        self._metrics.state_limit.set(health.limit or 0)
        self._metrics.state_volatile.set(health.durable is False)
        self._metrics.state_lag.set(health.lag_s)
        for kind, number in health.entities.items():
            self._metrics.state_entities.labels(kind).set(number)

    def _open_reader(self) -> Reader:
        from service.state.redis_reader import open_reader  # imports parts of OpenTelemetry

        connections = self._settings.state_connections
        return open_reader(self._address, self._timeout_s, connections, self._items)

    @property
    def engine_name(self) -> Literal["lmdb", "redis"]:
        """The kind of engine that the address names."""
        return "lmdb" if self._address.scheme == "lmdb" else "redis"

    def describe(self) -> dict[str, Any]:
        """Return engine, condition, entities and lag for `GET /info`; without the password."""
        health = self.health
        return {
            "engine": self.engine_name,
            "address": str(self._address),
            "status": "up" if self.problem is None else "down",
            "problem": self.problem,
            "entities": None if health is None else dict(health.entities),
            "bytes": None if health is None else health.bytes,
            "limit_bytes": None if health is None else health.limit,
            "durable": None if health is None else health.durable,
            "lag_s": None if health is None else health.lag_s,
            "check_ms": None if self.ping_ms is None else round(self.ping_ms, 3),
            "notes": [] if health is None else list(health.notes),
        }


def keepable(ids: Iterable[str]) -> dict[str, None]:
    """Return the distinct ids that a store can keep, in their order; no store has longer ones."""
    distinct = dict.fromkeys(ids)
    if max(map(len, distinct), default=0) <= MAX_ID_BYTES // 4:  # bytes of a character, at most
        return distinct
    return {item: None for item in distinct if len(item.encode()) <= MAX_ID_BYTES}
