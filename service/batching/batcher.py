"""Dynamic batching: one worker takes rows from the queue, grants a budget and runs them together.

By default there is no batch window: rows that arrive during a run gather in the queue, and the next
run takes them together. An idle service therefore answers a single request at once, and a busy one
batches without waiting. A window waits for more rows, but never longer than the nearest deadline
allows.

Brief runs are made on the event loop: two threads that take turns at one interpreter rank fewer
lists than one (docs/loadtest.md). Longer runs have a thread, so that the event loop can enforce
deadlines meanwhile.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.batching.budget import BudgetController, Forecast, Pace
from service.batching.clock import Clock, SystemClock
from service.batching.queue import SHADOW_PRIORITY, Queue, QueueEntry
from service.engine.rows import Row, Slate, SlateSampling, Timing
from service.engine.session import Session
from service.errors import DeadlineExceeded, InferenceFailed, Overloaded
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger("service")

NS = 1e9  # nanoseconds in a second
# In an overload every admitted row is at the edge of its deadline. Without a margin, runs a little
# longer than expected would take half of them past it.
MARGIN = 1.1
# Turns of the event loop between two runs, in which responses leave and requests are parsed.
YIELDS_BETWEEN_RUNS = 4


@dataclass(slots=True)  # not frozen, as in service.batching.queue
class RowResult:
    """A slate, the budget per position granted to it, and the seconds of its wait and run."""

    slate: Slate
    budget: int
    queue_s: float
    inference_s: float


Entry = QueueEntry[RowResult]


class Batcher:
    """Runs rows of concurrent requests together; belongs to one event loop."""

    def __init__(
        self,
        session: Session,
        metrics: Metrics,
        settings: Settings,
        forecast: Forecast,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._now = self._clock.monotonic
        self._session, self._metrics, self._settings = session, metrics, settings
        self._hot = metrics.hot
        self._queue: Queue[RowResult] = Queue(settings.max_queue)
        self._forecast = forecast
        self._adaptive = settings.adaptive_budget and forecast.budget_matters
        self._controller = BudgetController(
            session.manifest.budget,
            settings.target_wait_ms / 1e3,
            settings.recover_s,
            self._adaptive,
        )
        self._arrival = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False
        self._busy_until = 0.0  # the forecast end of the run under way, or the end of the last one
        self._pace, self._cycle_began = Pace(), 0.0
        self._may_hold_dead = False  # whether rows may have expired or been cancelled in the queue
        # A thread costs CPU time on both sides of the hand-over, and then both compete for the
        # interpreter; only a run on the GPU leaves the event loop free meanwhile.
        on_cpu = session.provider == "CPUExecutionProvider"
        self._brief_s = settings.brief_run_ms / 1e3 if on_cpu else 0.0
        self._cpu_s = session.graph_cpu_s

    @property
    def level(self) -> int:
        """The largest budget per position that a run is granted now."""
        return self._controller.level

    def start(self) -> None:
        """Start the worker; needs a running event loop."""
        self._hot.budget_level.set(self.level)
        self._worker = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Finish the run under way and the queue, then stop the worker."""
        if self._worker is not None:
            self._closing = True
            self._arrival.set()
            await self._worker
        self._executor.shutdown()

    def submit(
        self, rows: Sequence[Row], deadlines: Sequence[float], priority: int = 0
    ) -> list[asyncio.Future[RowResult]]:
        """Queue the rows, or refuse all of them if they do not fit; return one future per row.

        Rows of lower priority make room in a full queue. A row that would miss its deadline even at
        the smallest budget that it may get is shed at once, by itself. A future ends in a
        RowResult, DeadlineExceeded, Overloaded or InferenceFailed; a row whose future is cancelled
        is dropped before its run.

        Args:
            rows: rows to rank.
            deadlines: one per row, as times of the clock in seconds.
            priority: 0 is the most urgent.

        Raises:
            Overloaded: the queue is full of rows that are at least as urgent.
        """
        queue = self._queue
        if len(queue) + len(rows) > queue.limit:
            self._make_room(len(rows), priority)
        now = self._now()
        loop = asyncio.get_running_loop()
        futures = []
        for row, deadline in zip(rows, deadlines, strict=True):
            work_ns = self._work_ns(row.budget, row.sampling, len(row.numbers))
            entry = QueueEntry(row, priority, deadline, now, loop.create_future(), work_ns)
            futures.append(entry.future)
            if now >= deadline:
                self._expire(entry, "the deadline passed before admission")
            elif self._is_late(entry.work_ns, priority, deadline):
                error = Overloaded("the lists that wait would take it past its deadline")
                self._shed(entry, "overload", error)
            else:
                queue.push(entry)
        self._hot.queue_depth.set(len(queue))
        self._arrival.set()
        return futures

    def _make_room(self, count: int, priority: int) -> None:
        """Drop dead rows, then rows of lower priority, until `count` more fit.

        Raises Overloaded if there are too few of them.
        """
        queue = self._queue
        queue.retain(self._live_or_shed)
        evicted = queue.make_room(count, priority)
        if evicted is None:
            self._metrics.shed.labels("overload").inc(count)
            raise Overloaded(
                f"{len(queue)} lists wait and {count} arrived; "
                f"the queue holds {queue.limit}, try again later"
            )
        for entry in evicted:
            self._shed(entry, "overload", Overloaded("a more urgent list took its place"))

    def would_be_late(
        self,
        size: int,
        deadline: float,
        priority: int = 0,
        budget: int | None = None,
        sampling: SlateSampling | None = None,
    ) -> bool:
        """True if a list that arrives now would be shed because it would miss its deadline.

        size: its candidates; budget: as requested, None for the default of the bundle.
        """
        if self._is_idle():
            return False
        if budget is None:
            budget = self._session.manifest.budget
        return self._is_late(self._work_ns(budget, sampling, size), priority, deadline)

    def _work_ns(self, budget: int, sampling: SlateSampling | None, size: int) -> int:
        """Return the work that a row adds to the runs, at the smallest budget that it may get."""
        slates = 1 if sampling is None else sampling.slates
        share = min(1.0, slates / self._settings.max_batch_size)
        lowest = 0 if self._adaptive else budget
        return int(NS * self._forecast.work_s(lowest, slates * size, share))

    def _is_late(self, work_ns: int, priority: int, deadline: float) -> bool:
        """True if the lists ahead take a row past its deadline, even at the smallest budget.

        Never if none waits or runs: its run then corrects a forecast that is too long.
        """
        if self._is_idle():
            return False
        late = self._expected_end(work_ns, priority) > deadline
        if late and self._may_hold_dead:  # rows that will not run; look for them once a run
            self._may_hold_dead = False
            self._queue.retain(self._live_or_shed)
            late = self._expected_end(work_ns, priority) > deadline
        return late

    def _expected_end(self, work_ns: int, priority: int) -> float:
        """Return when a row would be ranked that came behind the queue, with a margin."""
        work_s = (self._queue.work_ahead_ns(priority) + work_ns) / NS
        queue_s = self._forecast.corrected(work_s) * self._pace.seconds_per_second
        return max(self._now(), self._busy_until) + MARGIN * queue_s

    def _is_idle(self) -> bool:
        """True if no row waits, and none runs or its run takes longer than expected."""
        return not len(self._queue) and self._now() >= self._busy_until

    def _shed(self, entry: Entry, reason: str, error: Exception) -> None:
        self._metrics.shed.labels(reason).inc()
        if not entry.future.done():
            entry.future.set_exception(error)

    def _expire(self, entry: Entry, detail: str) -> None:
        self._shed(entry, "deadline", DeadlineExceeded(detail))

    async def _serve(self) -> None:
        queue, settings, hot = self._queue, self._settings, self._hot
        while len(queue) or not self._closing:
            if not len(queue):
                await self._wait_for_row()
                self._cycle_began = self._now()
            if settings.batch_window_ms and not self._closing:
                await self._wait_for_window()
            batch = queue.take(settings.max_batch_size, self._live_or_shed)
            self._may_hold_dead = True
            hot.queue_depth.set(len(queue))
            if batch:
                hot.batch_size.observe(len(batch))
                self._update_level(min([entry.enqueued_at for entry in batch]))
                await self._run(batch)
                if len(batch) > 1 or len(queue):
                    # Yield to the event loop so that requests that arrived during this run join the
                    # next batch.
                    for _ in range(YIELDS_BETWEEN_RUNS):
                        await asyncio.sleep(0)
            if not len(queue) and not self._closing:
                self._arrival.clear()

    async def _wait_for_row(self) -> None:
        """Wait for a row or for `close`; the level recovers meanwhile."""
        while self.level < self._session.manifest.budget and not self._arrival.is_set():
            if not await self._clock.wait(self._arrival, self._settings.recover_s):
                self._update_level(self._now())
        await self._arrival.wait()

    def _update_level(self, oldest: float) -> None:
        """Update the level by the time at which the oldest row of the next run arrived."""
        now = self._now()
        self._hot.budget_level.set(self._controller.update(now - oldest, now))

    async def _wait_for_window(self) -> None:
        """Wait for more rows until the window closes, the batch is full or a deadline is near."""
        closes = self._now() + self._settings.batch_window_ms / 1e3
        while 0 < len(self._queue) < self._settings.max_batch_size and not self._closing:
            longest = self._forecast.seconds(self._session.manifest.budget, self._queue.volume)
            now = self._now()
            # Use half of the time that the nearest deadline leaves; keep the rest as a margin.
            left = min(closes - now, (self._queue.earliest_deadline() - now - longest) / 2)
            if left <= 0:
                return
            self._arrival.clear()
            if not await self._clock.wait(self._arrival, left):
                self._arrival.set()
                return

    def _live_or_shed(self, entry: Entry) -> bool:
        """True if the row is neither expired nor cancelled; else count it as shed."""
        if self._now() >= entry.deadline:  # its request is about to give up
            self._expire(entry, "the deadline passed in the queue")
        elif entry.future.done():
            self._metrics.shed.labels("disconnected").inc()
        else:
            return True
        return False

    async def _run(self, batch: list[Entry]) -> None:
        """Run a batch at the budget that level and deadlines allow, and resolve its futures."""
        began, level = self._now(), self.level
        volume = sum([entry.slates for entry in batch]) * max([entry.size for entry in batch])
        if self._adaptive:
            remaining = min([entry.deadline for entry in batch]) - began
            level = min(level, self._forecast.affordable(volume, remaining))
        rows = [
            entry.row if entry.row.budget <= level else dataclasses.replace(entry.row, budget=level)
            for entry in batch
        ]
        highest = max([row.budget for row in rows])
        expected_s = self._forecast.seconds(highest, volume)
        self._busy_until = began + expected_s
        try:
            awaited = min([entry.priority for entry in batch]) < SHADOW_PRIORITY
            if awaited and expected_s < self._brief_s:
                # Requests that arrive meanwhile would wait for this run anyway.
                slates = self._session.run(rows)
            else:
                loop = asyncio.get_running_loop()
                slates = await loop.run_in_executor(self._executor, self._session.run, rows)
        except Exception:  # of any kind: the worker must go on
            if len(batch) > 1:  # one failing row must not cost the others their slates
                for entry in batch:
                    if self._live_or_shed(entry):
                        await self._run([entry])
                return
            logger.exception("inference failed")
            self._busy_until = self._cycle_began = self._now()
            if not batch[0].future.done():
                batch[0].future.set_exception(InferenceFailed("the model failed on this list"))
            return
        ended = self._now()
        inference_s, cpu_s = ended - began, self._session.graph_cpu_s
        self._hot.inference_cpu.add(cpu_s - self._cpu_s)
        self._cpu_s = cpu_s
        self._forecast.observe(Timing(highest, volume, inference_s))
        self._pace.observe(ended - self._cycle_began, inference_s)
        self._busy_until = self._cycle_began = ended
        for entry, slate, row in zip(batch, slates, rows, strict=True):
            if not entry.future.done():
                queue_s = began - entry.enqueued_at
                entry.future.set_result(RowResult(slate, row.budget, queue_s, inference_s))
