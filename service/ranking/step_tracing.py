"""Trace the reasoning states of ranked lists in a thread of low priority."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from service.engine.rows import Row, Slate
from service.engine.steps import StepTrace, StepTracer
from service.models.deployment import lower_thread_priority
from service.ranking.decision import Decision

logger = logging.getLogger("service")


class StepTracing:
    """Adds traces to decisions while the event loop goes on; belongs to one event loop."""

    def __init__(self, limit: int) -> None:
        """limit: lists that may wait for their trace; others are left without one."""
        self._limit, self._waiting = limit, 0
        # The thread starts with the first trace.
        self._executor = ThreadPoolExecutor(1, "steps", lower_thread_priority)

    def close(self) -> None:
        """Stop the thread after the trace under way."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def add(
        self,
        decisions: Sequence[Decision],
        tracers: Sequence[StepTracer | None],
        deadlines: Sequence[float],
    ) -> None:
        """Set the trace of every decision that requests its steps and has a slate.

        It stays None if the trace fails, is not ready by the deadline of its list, or if too many
        others wait.

        Args:
            decisions: of one call.
            tracers: one per decision, of its bundle.
            deadlines: one per decision, as times of time.monotonic() in seconds.
        """
        jobs: list[tuple[asyncio.Future[StepTrace | None], Decision, float]] = []
        try:
            for decision, tracer, deadline in zip(decisions, tracers, deadlines, strict=True):
                if decision.explain_steps and decision.slate is not None and tracer is not None:
                    submitted = self._submit(tracer, decision, decision.slate)
                    if submitted is not None:
                        jobs.append((submitted, decision, deadline))
            for job, decision, deadline in jobs:
                await asyncio.wait([job], timeout=max(0.0, deadline - time.monotonic()))
                if job.done():
                    decision.trace = job.result()
        finally:
            for job, *_ in jobs:
                job.cancel()

    def _submit(
        self, tracer: StepTracer, decision: Decision, slate: Slate
    ) -> asyncio.Future[StepTrace | None] | None:
        """Start a trace, or return None if too many wait."""
        if self._waiting >= self._limit:
            return None
        self._waiting += 1
        job = asyncio.get_running_loop().run_in_executor(
            self._executor, trace, tracer, decision.row, slate, decision.budget, decision.request_id
        )
        job.add_done_callback(self._count_done)
        return job

    def _count_done(self, _job: asyncio.Future[StepTrace | None]) -> None:
        self._waiting -= 1


def trace(
    tracer: StepTracer, row: Row, slate: Slate, budget: int, request_id: str
) -> StepTrace | None:
    """Return the trace of a slate, None with a line in the log if it fails."""
    try:
        return tracer.trace(row, slate, budget)
    except Exception as error:  # the list is ranked, so nothing here may fail its response
        logger.warning("request %s: its steps cannot be traced (%s)", request_id, error)
        return None
