"""Who waits, in which order, and who runs together: a bounded queue, without clock or threads."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.engine.buckets import size_class
from service.engine.rows import Row

T = TypeVar("T")

PRIORITIES = {"interactive": 0, "background": 1}
SHADOW_PRIORITY = 2  # of lists that are ranked beside: nobody waits for their answer


@dataclass(frozen=True, eq=False)
class QueueEntry(Generic[T]):
    """One list in the queue. Times are of time.monotonic(); the lower priority goes first."""

    row: Row
    priority: int
    deadline: float
    enqueued_at: float
    future: asyncio.Future[T]
    size: int = field(init=False)
    slates: int = field(init=False)
    bucket: int = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.row.numbers)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "slates", self.row.sampling.slates if self.row.sampling else 1)
        # Lists of one run are padded to the longest, so a run takes lists of one bucket.
        object.__setattr__(self, "bucket", size_class(size))

    @property
    def volume(self) -> int:
        """Slates times candidates, what a run's time grows with."""
        return self.slates * self.size


class Queue(Generic[T]):
    """Bounded; by priority, then by deadline."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.volume = 0
        self._heap: list[tuple[int, float, int, QueueEntry[T]]] = []
        self._number = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[QueueEntry[T]]:
        return (entry for *_, entry in self._heap)

    def push(self, entry: QueueEntry[T]) -> None:
        """Let one list wait, whatever the limit."""
        self.volume += entry.volume
        item = (entry.priority, entry.deadline, next(self._number), entry)
        heapq.heappush(self._heap, item)

    def retain(self, is_live: Callable[[QueueEntry[T]], bool]) -> None:
        """Let those leave who are not wanted; `wanted` is asked once of each."""
        self._heap = [item for item in self._heap if is_live(item[3])]
        heapq.heapify(self._heap)
        self.volume = sum(entry.volume for entry in self)

    def make_room(self, count: int, priority: int) -> list[QueueEntry[T]] | None:
        """Who must go so that `count` more fit: the last of a lower class; None where too few."""
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
        self.volume -= sum(entry.volume for entry in evicted)
        return evicted

    def take(
        self, max_slates: int, is_live: Callable[[QueueEntry[T]], bool]
    ) -> list[QueueEntry[T]]:
        """The next run: the first list, and those in line that share its bucket.

        `wanted` is asked once of each that comes up; who is not wanted leaves the queue. At most
        `most_slates` slates, but always one list.
        """
        batch: list[QueueEntry[T]] = []
        kept, slates = [], 0
        while self._heap and slates < max_slates:
            item = heapq.heappop(self._heap)
            entry = item[3]
            if not is_live(entry):
                self.volume -= entry.volume
                continue
            if batch and (entry.bucket != batch[0].bucket or slates + entry.slates > max_slates):
                kept.append(item)
                continue
            batch.append(entry)
            slates += entry.slates
            self.volume -= entry.volume
        for item in kept:
            heapq.heappush(self._heap, item)
        return batch

    def earliest_deadline(self) -> float:
        """The nearest deadline; infinity when nobody waits."""
        return min((entry.deadline for entry in self), default=float("inf"))
