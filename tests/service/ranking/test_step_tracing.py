"""Traces of steps beside the event loop: late, cancelled, and too many of them."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import pytest

from service.engine.features.candidates import CandidateList
from service.journal.capture import decision_record
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.ranking.decision import Decision, Timeline
from service.ranking.request import RankingRequest
from service.ranking.reranker import Reranker
from service.ranking.step_tracing import StepTracing
from service.settings import Settings
from tests.support.fakes import CountingTracer

PAST, LATER = -1.0, 60.0  # seconds from now


@pytest.fixture
def decision(session, items):
    """A decision whose request asks for the steps."""
    row = dataclasses.replace(session.row(CandidateList(ids=items[:12])), explain=True)
    (slate,) = session.run([row])
    return Decision(
        "r-1", "ranklens", "1", "active", items[:12], row, slate, (), row.budget, 0, 0, None,
        Timeline(0.0, 0.0, 0.0), 0.0, 0.0, explain_steps=True,
    )  # fmt: skip


@pytest.fixture
def tracer(session):
    counting = CountingTracer(session.tracer)
    yield counting
    counting.go.set()


def fresh(decision, count=1):
    return [dataclasses.replace(decision) for _ in range(count)]


async def add(tracing, decisions, tracer, wait_s):
    deadline = time.monotonic() + wait_s
    await tracing.add(decisions, [tracer] * len(decisions), [deadline] * len(decisions))


@contextlib.contextmanager
def tracing_of(limit):
    tracing = StepTracing(limit)
    try:
        yield tracing
    finally:
        tracing.close()


def test_only_ranked_lists_that_request_their_steps_are_traced(decision, tracer):
    requested, plain, fallback = fresh(decision, 3)
    plain.explain_steps, fallback.slate = False, None
    with tracing_of(4) as tracing:
        asyncio.run(add(tracing, [requested, plain, fallback], tracer, LATER))
    assert tracer.slates == 1
    assert requested.trace is not None
    assert plain.trace is None
    assert fallback.trace is None
    missing = [each.steps_missing for each in (requested, plain, fallback)]
    assert missing == [None, None, "not_ranked"]


@pytest.mark.parametrize(("is_open", "reason"), [(True, "deadline"), (False, "opening")])
def test_a_late_trace_is_left_and_the_next_list_has_its_own(decision, tracer, is_open, reason):
    late, in_time = fresh(decision, 2)
    tracer.is_open = is_open
    with tracing_of(4) as tracing:

        async def run():
            tracer.go.clear()
            await add(tracing, [late], tracer, PAST)
            tracer.go.set()
            await add(tracing, [in_time], tracer, LATER)

        asyncio.run(run())
    assert late.trace is None
    assert late.steps_missing == reason
    assert in_time.trace is not None
    assert in_time.steps_missing is None


def test_no_more_lists_wait_than_the_limit(decision, tracer):
    with tracing_of(2) as tracing:
        first, again = fresh(decision, 4), fresh(decision, 2)

        async def run():
            await add(tracing, first, tracer, LATER)
            await add(tracing, again, tracer, LATER)

        asyncio.run(run())
    assert [each.trace is not None for each in first] == [True, True, False, False]
    assert [each.steps_missing for each in first] == [None, None, "overload", "overload"]
    assert [each.trace is not None for each in again] == [True, True]
    assert tracer.slates == 4


def test_a_cancelled_call_leaves_its_place_to_others(decision, tracer):
    waiting, queued, other = fresh(decision, 3)
    with tracing_of(2) as tracing:

        async def run():
            tracer.go.clear()
            call = asyncio.create_task(add(tracing, [waiting, queued], tracer, LATER))
            while not tracer.slates:
                await asyncio.sleep(0.001)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            await asyncio.sleep(0)  # the callbacks of the cancelled traces
            tracer.go.set()
            await add(tracing, [other], tracer, LATER)

        asyncio.run(run())
    assert waiting.trace is queued.trace is None
    assert other.trace is not None
    assert tracer.slates == 2  # the queued one was not begun


def test_a_failed_trace_is_logged_with_the_request(decision, caplog):
    (failed,) = fresh(decision)
    with tracing_of(1) as tracing:
        asyncio.run(add(tracing, [failed], CountingTracer(None), LATER))
    assert failed.trace is None
    assert failed.steps_missing == "model_error"
    assert "request r-1: its steps cannot be traced" in caplog.text


def test_nothing_is_started_before_the_first_trace():
    names = {thread.name for thread in threading.enumerate()}
    with tracing_of(1):
        assert {thread.name for thread in threading.enumerate()} == names


def test_every_list_of_a_call_has_the_time_of_the_wait(decision, tracer):
    requested, plain = fresh(decision, 2)
    plain.explain_steps = False
    with tracing_of(1) as tracing:
        asyncio.run(add(tracing, [requested, plain], tracer, LATER))
    assert requested.trace_s == plain.trace_s > 0


def test_the_wait_for_steps_is_no_time_of_a_list_in_the_journal(session, items, decision):
    settings = Settings()
    reranker = Reranker(settings, Fleet.of(session, settings, Metrics()), lambda *_: None)
    request = RankingRequest(CandidateList(ids=items[:12]), "r-1", "", time.monotonic() + LATER)
    waited = dataclasses.replace(decision, trace_s=5.0)  # received at 0
    record = decision_record(reranker.prepare(request), waited, "d1", 0, now=26.0)
    assert record.total_ms == 21_000
