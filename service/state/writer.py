"""Write the events of a worker: a thread commits together whatever waits.

A call is answered after the commit that holds its events. Events of a client that has left, and
those that wait when the service stops, are written too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from service.metrics import Metrics
from service.state.engine import Engine, Key, Value, now_ms
from service.state.errors import StateError, StateUnavailable
from service.state.events import Event, EventRules

logger = logging.getLogger("service")

MAX_WAITING = 50_000  # changes of entities that wait, beyond which calls are refused


@dataclass(frozen=True)
class Commits:
    """The way in which an engine is written.

    threads      LMDB has one writer at a time; of Redis, one thread prepares while one waits
    changes      of one commit, at most: a commit of LMDB costs the same for many, and Redis is
                 written in short transactions anyway
    """

    threads: int
    changes: int


COMMITS = {"lmdb": Commits(1, 5_000), "redis": Commits(2, 512)}

Outcome = Literal["accepted", "duplicate"]


class QueueFull(StateError):
    """More events wait than the store keeps up with; nothing of the call was kept."""


class EngineOwner(Protocol):
    """Has an engine once it is open."""

    @property
    def engine(self) -> Engine:
        """The engine. Raises StateUnavailable."""


@dataclass(slots=True)
class Call:
    """The events of one call, the entities that they change, and the future of their outcomes."""

    events: Sequence[Event]
    rules: EventRules
    changes: list[tuple[Event, Key]]
    loop: asyncio.AbstractEventLoop
    outcomes: asyncio.Future[list[Outcome]]


class EventWriter:
    """Writes events on threads of its own."""

    def __init__(
        self,
        owner: EngineOwner,
        metrics: Metrics,
        commits: Commits,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """clock: returns the time in ms since 1970 UTC."""
        self._owner, self._metrics, self._clock = owner, metrics, clock
        self._commits = commits
        self._calls: deque[Call] = deque()
        self._waiting = 0  # changes of calls in the queue
        self._arrival = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []

    async def write(self, events: Sequence[Event], rules: EventRules) -> list[Outcome]:
        """Return the outcome of each event once all are durable and every reader sees them.

        An event is a duplicate if it was written within the window. Raises QueueFull, or
        EngineError if the store did not keep all of them; it is safe to send them again.
        """
        changes = [(event, key) for event in events for key in event.entities()]
        loop = asyncio.get_running_loop()
        call = Call(events, rules, changes, loop, loop.create_future())
        with self._arrival:
            if self._closing:
                raise StateUnavailable("the service stops")
            if self._waiting and self._waiting + len(changes) > MAX_WAITING:
                raise QueueFull(f"{len(self._calls)} calls wait for the entity store")
            self._calls.append(call)
            self._waiting += len(changes)
            if len(self._threads) < self._commits.threads:
                self._threads.append(threading.Thread(target=self._run, name="events"))
                self._threads[-1].start()
            self._arrival.notify()
        self._metrics.feedback_waiting.inc(len(events))
        try:
            return await call.outcomes
        finally:
            self._metrics.feedback_waiting.dec(len(events))

    async def close(self) -> None:
        """Write what waits, and end the threads."""
        with self._arrival:
            self._closing = True
            self._arrival.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _run(self) -> None:
        while calls := self._take():
            began = time.monotonic()
            try:
                outcomes = self._commit(calls)
            except Exception as error:
                if not isinstance(error, StateError):
                    logger.exception("unhandled error while events were written")
                for call in calls:
                    self._answer(call, error)
                continue
            elapsed = time.monotonic() - began
            self._metrics.feedback_commit.observe(elapsed)
            self._metrics.feedback_commit_events.observe(sum(len(c.events) for c in calls))
            for call in calls:
                self._answer(call, [next(outcomes) for _ in call.events])

    def _take(self) -> list[Call]:
        """Wait for calls, and return those of the next commit; none at the end."""
        calls: list[Call] = []
        size = 0
        with self._arrival:
            while not self._calls and not self._closing:
                self._arrival.wait()
            limit = self._commits.changes
            while self._calls and (not calls or size + len(self._calls[0].changes) <= limit):
                call = self._calls.popleft()
                size += len(call.changes)
                calls.append(call)
            self._waiting -= size
        return calls

    def _commit(self, calls: Sequence[Call]) -> Iterator[Outcome]:
        """Write the events of calls, and return the outcome of each."""
        changes, marks, sizes = [], [], []
        taken: set[bytes] = set()
        for call in calls:
            rest = iter(call.changes)
            for event in call.events:
                size = (event.user is not None) + 1 + len(event.shows)
                part = [(call.rules, *change) for change in islice(rest, size)]
                mark = event.mark()
                if mark in taken:  # whatever it states: of two events with one id the first counts
                    part = []
                taken.add(mark)
                changes += part
                marks += [mark] * len(part)
                sizes.append(len(part))
        now = self._clock()

        def changed(place: int, blob: bytes | None) -> Value | None:
            rules, event, key = changes[place]
            if key.kind == "user":
                return rules.user_after(blob, event, now)
            return rules.item_after(blob, event, key, now)

        keys = [key for *_, key in changes]
        made = iter(self._owner.engine.update_many(keys, changed, marks))
        # Redis may have kept a part of an event that was not answered; the rest is new.
        return iter(["accepted" if sum(islice(made, size)) else "duplicate" for size in sizes])

    @staticmethod
    def _answer(call: Call, answer: list[Outcome] | Exception) -> None:
        def resolve() -> None:
            if call.outcomes.done():  # the client has left
                return
            if isinstance(answer, Exception):
                call.outcomes.set_exception(answer)
            else:
                call.outcomes.set_result(answer)

        call.loop.call_soon_threadsafe(resolve)
