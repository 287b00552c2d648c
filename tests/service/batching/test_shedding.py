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


def timings(seconds):
    """Return warm-up timings of rows of nine candidates: `seconds` at budget 0, four times at 3."""
    return [Timing(b, v, seconds / 9 * v * (1 + b)) for b in (0, 3) for v in (1, 100)]


def is_shed(future):
    return future.done() and isinstance(future.exception(), Overloaded)


def test_less_urgent_rows_in_the_queue_do_not_shed_a_row_that_goes_first():
    async def steps(harness):
        await harness.occupy()
        harness.submit(*[make_row()] * 5, priority=1, within=100)
        (urgent,) = harness.submit(make_row(), within=0.9)
        (background,) = harness.submit(make_row(), within=0.9, priority=1)
        return is_shed(urgent), is_shed(background)

    # The run under way takes 0.4 s with reasoning, and each row behind it 0.1 s without.
    assert play(steps, timings=timings(0.1), max_batch_size=1)[0] == (False, True)


@pytest.mark.parametrize(("adaptive_budget", "shed"), [(True, False), (False, True)])
def test_the_forecast_counts_the_smallest_budget_that_a_row_may_get(adaptive_budget, shed):
    async def steps(harness):
        await harness.occupy()
        harness.submit(make_row(), within=10)
        (row,) = harness.submit(make_row(), within=1.0)
        (without_reasoning,) = harness.submit(make_row(budget=0), within=1.5)
        return is_shed(row), is_shed(without_reasoning)

    options = {"timings": timings(0.1), "max_batch_size": 1, "adaptive_budget": adaptive_budget}
    assert play(steps, **options)[0] == (shed, False)


def test_a_row_is_shed_at_once_if_the_run_under_way_ends_too_late_for_it():
    async def steps(harness):
        await harness.occupy()  # of 0.4 s
        (late,) = harness.submit(make_row(), within=0.45)
        (timely,) = harness.submit(make_row(), within=0.55)
        return is_shed(late), is_shed(timely)

    assert play(steps, timings=timings(0.1), max_batch_size=1)[0] == (True, False)


def test_a_run_that_ended_sooner_than_expected_sheds_no_row():
    async def steps(harness):
        first = await harness.occupy()  # of 0.4 s
        harness.session.released.set()
        await first  # after no time
        futures = harness.submit(*[make_row()] * 2, within=0.3)
        return [is_shed(future) for future in futures]

    assert play(steps, timings=timings(0.1))[0] == [False, False]


def test_rows_of_disconnected_clients_shed_no_other_row():
    async def steps(harness):
        await harness.occupy()
        for future in harness.submit(*[make_row()] * 5):
            future.cancel()
        (row,) = harness.submit(make_row(), within=0.6)
        return is_shed(row), harness.shed("disconnected")

    assert play(steps, timings=timings(0.1), max_batch_size=1)[0] == (False, 5.0)
