"""The bounded queue of rows: its order, its limit and the batches taken from it."""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.engine.buckets import size_class
from service.engine.rows import Row

T = TypeVar("T")

PRIORITIES = {"interactive": 0, "background": 1}
SHADOW_PRIORITY = 2  # of rows for a shadow: no request waits for their slates

bucket_of = functools.cache(size_class)  # a bundle bounds the number of sizes


# Built for every row and not frozen: a frozen dataclass takes seven times as long to build.
@dataclass(slots=True, eq=False)
class QueueEntry(Generic[T]):
    """One row in the queue.

    priority: the lowest goes first; deadline, enqueued_at: times of the batcher's clock, in
    seconds; work_ns: forecast nanoseconds that it adds to the runs, before correction; size:
    candidates of the list; volume: slates times candidates, in which the time of a run is linear.
    """

    row: Row
    priority: int
    deadline: float
    enqueued_at: float
    future: asyncio.Future[T]
    work_ns: int = 0
    size: int = field(init=False)
    slates: int = field(init=False)
    volume: int = field(init=False)
    bucket: int = field(init=False)

    def __post_init__(self) -> None:
        row = self.row
        self.size = size = len(row.numbers)
        self.slates = slates = 1 if row.sampling is None else row.sampling.slates
        self.volume = slates * size
        # Rows of one run are padded to the longest, so a run takes rows of one bucket.
        self.bucket = bucket_of(size)


class Queue(Generic[T]):
    """A bounded queue, ordered by priority, then deadline, then arrival; needs no clock or lock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.volume = 0
        self._work_ns: Counter[int] = Counter()  # by priority
        self._heap: list[tuple[int, float, int, QueueEntry[T]]] = []
        self._number = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[QueueEntry[T]]:
        return (entry for *_, entry in self._heap)

    def push(self, entry: QueueEntry[T]) -> None:
        """Add one entry, whatever the limit."""
        self._count(entry)
        item = (entry.priority, entry.deadline, next(self._number), entry)
        heapq.heappush(self._heap, item)

    def retain(self, is_live: Callable[[QueueEntry[T]], bool]) -> None:
        """Drop the entries that are not live; call `is_live` once for each."""
        self._heap = [item for item in self._heap if is_live(item[3])]
        heapq.heapify(self._heap)
        self.volume = 0
        self._work_ns.clear()
        for entry in self:
            self._count(entry)

    def make_room(self, count: int, priority: int) -> list[QueueEntry[T]] | None:
        """Evict entries of lower priority until `count` more fit; return the evicted ones.

        Return None, and evict nothing, if there are too few of them.
        """
        excess = len(self) + count - self.limit
        if excess <= 0:
            return []
        lower = sorted((item for item in self._heap if item[0] > priority), reverse=True)
        if len(lower) < excess:
            return None
        numbers = {item[2] for item in lower[:excess]}
        self._heap = [item for item in self._heap if item[2] not in numbers]
        heapq.heapify(self._heap)
        evicted = [item[3] for item in lower[:excess]]
        for entry in evicted:
            self._count(entry, -1)
        return evicted

    def take(
        self, max_slates: int, is_live: Callable[[QueueEntry[T]], bool]
    ) -> list[QueueEntry[T]]:
        """Take the next batch: the first entry, and the ones behind it that share its bucket.

        Call `is_live` once for each entry that comes up and drop those that are not. The batch has
        at most `max_slates` slates, but always one entry unless the queue is empty.
        """
        batch: list[QueueEntry[T]] = []
        kept: list[tuple[int, float, int, QueueEntry[T]]] = []
        slates = 0
        while self._heap and slates < max_slates:
            item = heapq.heappop(self._heap)
            entry = item[3]
            if not is_live(entry):
                self._count(entry, -1)
                continue
            if batch and (entry.bucket != batch[0].bucket or slates + entry.slates > max_slates):
                kept.append(item)
                continue
            batch.append(entry)
            slates += entry.slates
            self._count(entry, -1)
        for item in kept:
            heapq.heappush(self._heap, item)
        return batch

    def work_ahead_ns(self, priority: int) -> int:
        """Return the work of the entries that are at least as urgent as a priority."""
        return sum(work for level, work in self._work_ns.items() if level <= priority)

    def _count(self, entry: QueueEntry[T], sign: int = 1) -> None:
        """Count an entry that enters (1) or leaves (-1)."""
        self.volume += sign * entry.volume
        self._work_ns[entry.priority] += sign * entry.work_ns

    def earliest_deadline(self) -> float:
        """Return the nearest deadline; infinity if the queue is empty."""
        return min((entry.deadline for entry in self), default=float("inf"))
