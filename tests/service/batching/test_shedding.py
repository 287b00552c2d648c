"""The batcher's refusals: a full queue, deadlines, cancellations and priorities."""

import asyncio

import pytest

from service.engine.rows import Timing
from service.errors import DeadlineExceeded, Overloaded
from tests.support.batching import make_row, play


def test_rows_that_do_not_fit_the_queue_are_refused_all_together():
    async def steps(harness):
        futures = harness.submit(*[make_row()] * 7)
        with pytest.raises(Overloaded, match="holds 8"):
            harness.submit(*[make_row()] * 2)
        harness.session.released.set()
        return await asyncio.gather(*futures)

    assert len(play(steps)[0]) == 7


def test_a_deadline_is_checked_at_admission_and_before_the_run():
    async def steps(harness):
        (expired,) = harness.submit(make_row(), within=-1)
        with pytest.raises(DeadlineExceeded, match="admission"):
            await expired
        await harness.occupy()
        (late,) = harness.submit(make_row(), within=0.05)
        await harness.clock.advance(0.05)
        harness.session.released.set()
        with pytest.raises(DeadlineExceeded, match="queue"):
            await late

    assert play(steps)[1].sizes == [1]


def test_a_cancelled_row_does_not_run():
    async def steps(harness):
        await harness.occupy()
        (cancelled,) = harness.submit(make_row())
        (waiting,) = harness.submit(make_row())
        cancelled.cancel()
        harness.session.released.set()
        await waiting

    assert play(steps)[1].sizes == [1, 1]


def test_a_cancellation_counts_as_deadline_after_the_deadline_and_else_as_disconnected():
    async def steps(harness):
        await harness.occupy()
        (late,) = harness.submit(make_row(), within=0.05)
        (disconnected,) = harness.submit(make_row())
        await harness.clock.advance(0.05)
        late.cancel()  # as the service does that waits for it
        disconnected.cancel()
        harness.session.released.set()
        await harness.batcher.close()
        return harness.shed("deadline"), harness.shed("disconnected")

    assert play(steps)[0] == (1.0, 1.0)


def test_a_cancelled_row_leaves_its_place_in_a_full_queue():
    async def steps(harness):
        first = await harness.occupy()
        cancelled, waiting = harness.submit(make_row(), make_row())
        with pytest.raises(Overloaded):
            harness.submit(make_row())
        cancelled.cancel()
        (late,) = harness.submit(make_row())
        harness.session.released.set()
        await asyncio.gather(first, waiting, late)
        return harness.shed("disconnected")

    disconnected, session = play(steps, max_batch_size=1, max_queue=2)
    assert session.sizes == [1, 1, 1]
    assert disconnected == 1


def test_background_rows_run_after_interactive_ones_and_make_room_for_them():
    async def steps(harness):
        first = await harness.occupy()
        background = harness.submit(*[make_row(budget=2) for _ in range(8)], priority=1)
        interactive = harness.submit(*[make_row(budget=1)] * 2)
        with pytest.raises(Overloaded):  # no row in the queue has a lower priority
            harness.submit(make_row(), priority=1)
        harness.session.released.set()
        results = await asyncio.gather(*background, return_exceptions=True)
        await asyncio.gather(first, *interactive)
        return [isinstance(result, Overloaded) for result in results]

    shed, session = play(steps, adaptive_budget=False)
    assert sum(shed) == 2
    assert [row.budget for row in session.rows[1]] == [1, 1, 2, 2]


def test_a_row_that_would_miss_its_deadline_is_refused_at_admission_unless_the_queue_is_empty():
    slow = [Timing(b, volume, 0.02 * volume * (1 + b)) for b in (0, 3) for volume in (1, 100)]

    async def steps(harness):
        first = await harness.occupy()
        futures = [first, *harness.submit(*[make_row()] * 2)]  # 0.18 s each at budget 0
        (late,) = harness.submit(make_row(), within=0.3)
        (timely,) = harness.submit(make_row(), within=10)
        harness.session.released.set()
        await asyncio.gather(*futures, timely)
        with pytest.raises(Overloaded, match="past its deadline"):
            await late
        (alone,) = harness.submit(make_row(), within=0.1)
        return await alone

    assert play(steps, timings=slow, max_batch_size=1)[0].slate.indices.tolist() == [0]
