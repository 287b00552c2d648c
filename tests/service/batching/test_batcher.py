"""The batcher: which rows share a run, where a run is made, and failures that it isolates."""

import asyncio
import threading

import pytest

from service.batching.queue import SHADOW_PRIORITY
from service.engine.rows import SlateSampling
from service.errors import InferenceFailed
from tests.support.batching import FAILING, make_row, play
from tests.support.clock import settle


def test_rows_that_arrive_during_a_run_share_the_next_ones():
    async def steps(harness):
        futures = [await harness.occupy()]
        for _ in range(6):
            futures += harness.submit(make_row())
        await harness.clock.advance(0.05)
        harness.session.released.set()
        return await asyncio.gather(*futures)

    results, session = play(steps)
    assert session.sizes == [1, 4, 2]
    assert [result.queue_s for result in results] == pytest.approx([0.0] + [0.05] * 6)
    assert [result.inference_s for result in results] == pytest.approx([0.05] + [0.0] * 6)


@pytest.mark.parametrize(
    ("brief_run_ms", "provider", "on_loop"),
    [
        (5.0, "CPUExecutionProvider", [True, True, False]),
        (5.0, "CUDAExecutionProvider", [False, False, False]),
        (0.0, "CPUExecutionProvider", [False, False, False]),
    ],
)
def test_only_a_brief_run_on_the_cpu_is_made_on_the_event_loop(brief_run_ms, provider, on_loop):
    async def steps(harness):
        harness.session.released.set()
        await asyncio.gather(*harness.submit(make_row()))
        await asyncio.gather(*harness.submit(*[make_row()] * 3))
        await asyncio.gather(*harness.submit(make_row(candidates=5000)))  # of 20 ms
        return [thread is threading.main_thread() for thread in harness.session.threads]

    made, session = play(steps, brief_run_ms=brief_run_ms, provider=provider)
    assert session.sizes == [1, 3, 1]
    assert made == on_loop


def test_a_shadow_run_is_not_made_on_the_event_loop():
    async def steps(harness):
        harness.session.released.set()
        for priority in (SHADOW_PRIORITY, SHADOW_PRIORITY - 1):
            await asyncio.gather(*harness.submit(make_row(), priority=priority))
        return [thread is threading.main_thread() for thread in harness.session.threads]

    assert play(steps, brief_run_ms=5.0)[0] == [False, True]


def test_responses_leave_between_two_runs_on_the_event_loop():
    async def steps(harness):
        runs = []
        harness.session.released.set()

        async def call():
            (future,) = harness.submit(make_row())
            await future
            runs.append(len(harness.session.sizes))

        await asyncio.gather(*(call() for _ in range(3)))
        return runs

    runs, _ = play(steps, brief_run_ms=5.0, max_batch_size=1)
    assert runs == [1, 2, 3]  # made by the time of each response


def test_a_run_takes_rows_of_one_bucket_and_at_most_a_batch_of_slates():
    async def steps(harness):
        first = await harness.occupy()
        sampled = make_row(sampling=SlateSampling(3, 0))
        rows = [
            make_row(), make_row(candidates=200), sampled, make_row(candidates=150), make_row(),
            make_row(),
        ]  # fmt: skip
        futures = harness.submit(*rows)
        harness.session.released.set()
        await asyncio.gather(first, *futures)

    _, session = play(steps)
    runs = [[(len(r.numbers), r.sampling is not None) for r in rows] for rows in session.rows[1:]]
    assert runs == [
        [(9, False), (9, True)],  # four slates
        [(200, False), (150, False)],
        [(9, False), (9, False)],
    ]


def test_one_failing_row_does_not_cost_its_batch_their_slates():
    async def steps(harness):
        futures = harness.submit(make_row(), make_row(FAILING), make_row())
        harness.session.released.set()
        return await asyncio.gather(*futures, return_exceptions=True)

    results, session = play(steps)
    assert session.sizes == [3, 1, 1, 1]
    assert isinstance(results[1], InferenceFailed)
    assert results[0].slate.indices.tolist() == results[2].slate.indices.tolist() == [0]


def test_a_batch_that_is_retried_row_by_row_is_counted_once_and_lowers_the_level_once():
    async def steps(harness):
        await harness.occupy()
        futures = harness.submit(*[make_row()] * 3, *[make_row(FAILING)] * 3)
        await harness.clock.advance(0.02)
        harness.session.released.set()
        await asyncio.gather(*futures, return_exceptions=True)
        return harness.batcher.level, harness.metrics.batch_size._sum.get()

    (level, rows), session = play(steps, max_batch_size=3, target_wait_ms=1)
    assert session.sizes == [1, 3, 3, 1, 1, 1]
    assert level == 2
    assert rows == 7


def test_close_lets_the_run_and_the_queue_finish():
    async def steps(harness):
        futures = [await harness.occupy(), *harness.submit(make_row())]
        closing = asyncio.create_task(harness.batcher.close())
        await settle()
        assert not closing.done()
        harness.session.released.set()
        await closing
        return [future.done() for future in futures]

    assert play(steps, max_batch_size=1)[0] == [True, True]


def test_a_window_collects_rows_until_it_closes():
    async def steps(harness):
        harness.session.released.set()
        first = harness.submit(make_row())
        await harness.clock.advance(0.02)
        second = harness.submit(make_row())
        await harness.clock.advance(0.27)
        assert harness.session.sizes == []
        await harness.clock.advance(0.02)
        return await asyncio.gather(*first, *second)

    results, session = play(steps, batch_window_ms=300)
    assert session.sizes == [2]
    assert [result.queue_s for result in results] == pytest.approx([0.3, 0.28])


def test_a_window_closes_at_half_of_the_time_that_a_deadline_leaves():
    async def steps(harness):
        harness.session.released.set()
        (pressed,) = harness.submit(make_row(), within=0.05)
        await harness.clock.advance(0.02)
        assert harness.session.sizes == []
        await harness.clock.advance(0.02)
        return await pressed

    result, session = play(steps, batch_window_ms=300)
    assert session.sizes == [1]
    run_s = 36e-6  # of 9 candidates at budget 3
    assert result.queue_s == pytest.approx((0.05 - run_s) / 2)


def test_a_full_batch_does_not_wait_for_the_window_to_close():
    async def steps(harness):
        harness.session.released.set()
        return await asyncio.gather(*harness.submit(*[make_row()] * 4))

    results, session = play(steps, batch_window_ms=300)
    assert session.sizes == [4]
    assert [result.queue_s for result in results] == [0.0] * 4
