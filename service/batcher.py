"""Admission and batching: a bounded queue before one worker that takes whatever waits.

There is no batch window: while a run is under way arrivals gather, and the next run takes them
together. An idle service therefore answers a lone request at once, a busy one batches by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.errors import DeadlineExceeded, InferenceFailed, Overloaded
from service.metrics import Metrics
from service.session import Row, Session, Slate

logger = logging.getLogger("service")


@dataclass(frozen=True)
class Outcome:
    """A slate and how long it waited and ran, in seconds."""

    slate: Slate
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class _Waiting:
    row: Row
    deadline: float  # time.monotonic()
    arrived: float
    answer: asyncio.Future[Outcome]


class Batcher:
    """Runs rows of concurrent requests together. Belongs to one event loop; start, then close."""

    def __init__(
        self, session: Session, metrics: Metrics, max_batch_size: int, max_queue: int
    ) -> None:
        self._session, self._metrics = session, metrics
        self._max_batch_size, self._max_queue = max_batch_size, max_queue
        self._queue: deque[_Waiting] = deque()
        self._arrival = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begin to take rows; needs a running event loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Let what waits and what runs finish, then stop."""
        if self._worker is not None:
            self._closing = True
            self._arrival.set()
            await self._worker
        self._executor.shutdown()

    def submit(
        self, rows: Sequence[Row], deadlines: Sequence[float]
    ) -> list[asyncio.Future[Outcome]]:
        """Admit rows, all or none; deadlines are times of time.monotonic(), one per row.

        Each future ends in an Outcome, DeadlineExceeded or InferenceFailed; a cancelled one is
        dropped before its run. Raises Overloaded.
        """
        if len(self._queue) + len(rows) > self._max_queue:
            self._metrics.shed.labels("overload").inc(len(rows))
            raise Overloaded(f"{len(self._queue)} lists wait, the queue holds {self._max_queue}")
        now = time.monotonic()
        loop = asyncio.get_running_loop()
        answers = []
        for row, deadline in zip(rows, deadlines, strict=True):
            entry = _Waiting(row, deadline, now, loop.create_future())
            answers.append(entry.answer)
            if now < deadline:
                self._queue.append(entry)
            else:
                self._expire(entry, "the deadline passed before admission")
        self._metrics.queue_depth.set(len(self._queue))
        self._arrival.set()
        return answers

    def _expire(self, entry: _Waiting, detail: str) -> None:
        self._metrics.shed.labels("deadline").inc()
        if not entry.answer.done():
            entry.answer.set_exception(DeadlineExceeded(detail))

    async def _work(self) -> None:
        while self._queue or not self._closing:
            await self._arrival.wait()
            batch = self._next_batch()
            if batch:
                await self._run(batch)
            if not self._queue and not self._closing:
                self._arrival.clear()

    def _next_batch(self) -> list[_Waiting]:
        """Up to max_batch_size rows that still want an answer and still have time."""
        batch: list[_Waiting] = []
        now = time.monotonic()
        while self._queue and len(batch) < self._max_batch_size:
            entry = self._queue.popleft()
            if self._wanted(entry, now):
                batch.append(entry)
        self._metrics.queue_depth.set(len(self._queue))
        return batch

    def _wanted(self, entry: _Waiting, now: float) -> bool:
        """Whether somebody waits for this row and it still has time; else it is counted out."""
        if now >= entry.deadline:  # whoever waited has given up just now
            self._expire(entry, "the deadline passed in the queue")
        elif entry.answer.done():
            self._metrics.shed.labels("disconnected").inc()
        else:
            return True
        return False

    async def _run(self, batch: list[_Waiting]) -> None:
        self._metrics.batch_size.observe(len(batch))
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            slates = await loop.run_in_executor(
                self._executor, self._session.run, [entry.row for entry in batch]
            )
        except Exception:  # whatever it was, the worker must live on
            if len(batch) > 1:  # one bad row must not cost its neighbours their answer
                for entry in batch:
                    if self._wanted(entry, time.monotonic()):
                        await self._run([entry])
                return
            logger.exception("inference failed")
            if not batch[0].answer.done():
                batch[0].answer.set_exception(InferenceFailed("the model failed on this list"))
            return
        ended = time.monotonic()
        for entry, slate in zip(batch, slates, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(Outcome(slate, began - entry.arrived, ended - began))
