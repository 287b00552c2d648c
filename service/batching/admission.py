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
class Waiting(Generic[T]):
    """One list in the queue. Times are of time.monotonic(); the lower priority goes first."""

    row: Row
    priority: int
    deadline: float
    arrived: float
    answer: asyncio.Future[T]
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
    def cells(self) -> int:
        """Slates times candidates, what a run's time grows with."""
        return self.slates * self.size


class Queue(Generic[T]):
    """Bounded; by priority, then by deadline."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.cells = 0
        self._heap: list[tuple[int, float, int, Waiting[T]]] = []
        self._number = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Waiting[T]]:
        return (entry for *_, entry in self._heap)

    def push(self, entry: Waiting[T]) -> None:
        """Let one list wait, whatever the limit."""
        self.cells += entry.cells
        item = (entry.priority, entry.deadline, next(self._number), entry)
        heapq.heappush(self._heap, item)

    def keep(self, wanted: Callable[[Waiting[T]], bool]) -> None:
        """Let those leave who are not wanted; `wanted` is asked once of each."""
        self._heap = [item for item in self._heap if wanted(item[3])]
        heapq.heapify(self._heap)
        self.cells = sum(entry.cells for entry in self)

    def yields(self, count: int, priority: int) -> list[Waiting[T]] | None:
        """Who must go so that `count` more fit: the last of a lower class; None where too few."""
        excess = len(self) + count - self.limit
        if excess <= 0:
            return []
        lower = sorted((item for item in self._heap if item[0] > priority), reverse=True)
        if len(lower) < excess:
            return None
        gone = {item[2] for item in lower[:excess]}
        self._heap = [item for item in self._heap if item[2] not in gone]
        heapq.heapify(self._heap)
        found = [item[3] for item in lower[:excess]]
        self.cells -= sum(entry.cells for entry in found)
        return found

    def take(self, most_slates: int, wanted: Callable[[Waiting[T]], bool]) -> list[Waiting[T]]:
        """The next run: the first list, and those in line that share its bucket.

        `wanted` is asked once of each that comes up; who is not wanted leaves the queue. At most
        `most_slates` slates, but always one list.
        """
        batch: list[Waiting[T]] = []
        kept, slates = [], 0
        while self._heap and slates < most_slates:
            item = heapq.heappop(self._heap)
            entry = item[3]
            if not wanted(entry):
                self.cells -= entry.cells
                continue
            if batch and (entry.bucket != batch[0].bucket or slates + entry.slates > most_slates):
                kept.append(item)
                continue
            batch.append(entry)
            slates += entry.slates
            self.cells -= entry.cells
        for item in kept:
            heapq.heappush(self._heap, item)
        return batch

    def tightest(self) -> float:
        """The nearest deadline; infinity when nobody waits."""
        return min((entry.deadline for entry in self), default=float("inf"))
