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
        """Set the trace of every decision that requests its steps, or why it has none.

        All decisions get the seconds of the wait, because the lists of a call are answered at once.

        Args:
            decisions: of one call.
            tracers: one per decision, of its bundle.
            deadlines: one per decision, as times of time.monotonic() in seconds.
        """
        began = time.monotonic()
        jobs: list[tuple[asyncio.Future[StepTrace | None], Decision, StepTracer, float]] = []
        try:
            for decision, tracer, deadline in zip(decisions, tracers, deadlines, strict=True):
                if not decision.explain_steps:
                    continue
                if decision.slate is None:
                    decision.steps_missing = "not_ranked"
                elif tracer is None:
                    decision.steps_missing = "model_error"
                elif self._waiting >= self._limit:
                    decision.steps_missing = "overload"
                else:
                    job = self._submit(tracer, decision, decision.slate)
                    jobs.append((job, decision, tracer, deadline))
            for job, decision, tracer, deadline in jobs:
                await asyncio.wait([job], timeout=max(0.0, deadline - time.monotonic()))
                if not job.done():
                    is_open = tracer.is_open_for(decision.row)
                    decision.steps_missing = "deadline" if is_open else "opening"
                    continue
                decision.trace = job.result()
                if decision.trace is None:
                    decision.steps_missing = "model_error"
        finally:
            for job, *_ in jobs:
                job.cancel()
        trace_s = time.monotonic() - began
        for decision in decisions:
            decision.trace_s = trace_s

    def _submit(
        self, tracer: StepTracer, decision: Decision, slate: Slate
    ) -> asyncio.Future[StepTrace | None]:
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
