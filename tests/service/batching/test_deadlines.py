"""Deadlines of many futures with one timer."""

import asyncio
import time
from unittest.mock import patch

import pytest

from service.batching.deadlines import Deadlines
from service.errors import DeadlineExceeded


def play(steps):
    """Run `steps(deadlines, make_future)` and return its result and the number of timers."""

    async def scenario():
        loop = asyncio.get_running_loop()
        with patch.object(loop, "call_later", wraps=loop.call_later) as timers:
            return await steps(Deadlines(), loop.create_future), timers.call_count

    return asyncio.run(scenario())


def test_a_future_fails_once_its_deadline_has_passed_and_a_later_one_does_not():
    async def steps(deadlines, make_future):
        soon, late = make_future(), make_future()
        due = time.monotonic() + 0.02
        deadlines.watch(late, due + 1e6)
        deadlines.watch(soon, due)
        with pytest.raises(DeadlineExceeded):
            await soon
        return time.monotonic() - due, late.done()

    (late_s, later_is_done), _ = play(steps)
    assert late_s >= 0
    assert not later_is_done


def test_requests_with_ascending_deadlines_share_one_timer():
    async def steps(deadlines, make_future):
        for number in range(100):
            future = make_future()
            deadlines.watch(future, time.monotonic() + 1e6 + number)
            deadlines.release(future)

    assert play(steps)[1] == 1


def test_a_nearer_deadline_moves_the_timer():
    async def steps(deadlines, make_future):
        for number in range(3):
            deadlines.watch(make_future(), time.monotonic() + 1e6 - number)

    assert play(steps)[1] == 3


def test_deadlines_after_the_first_that_passed_are_still_enforced():
    async def steps(deadlines, make_future):
        futures = [make_future() for _ in range(3)]
        now = time.monotonic()
        for future, delay in zip(futures, (0.01, 0.03, 0.02), strict=True):
            deadlines.watch(future, now + delay)
        return await asyncio.gather(*futures, return_exceptions=True)

    errors, _ = play(steps)
    assert [type(error) for error in errors] == [DeadlineExceeded] * 3


@pytest.mark.parametrize("end", ["release", "result", "cancel"])
def test_a_future_that_ended_before_its_deadline_is_left_alone(end):
    async def steps(deadlines, make_future):
        ended, other = make_future(), make_future()
        now = time.monotonic()
        deadlines.watch(ended, now + 0.01)
        deadlines.watch(other, now + 0.01)
        if end == "release":
            deadlines.release(ended)
        elif end == "result":
            ended.set_result("slate")
        else:
            ended.cancel()
        with pytest.raises(DeadlineExceeded):
            await other
        return ended

    ended, _ = play(steps)
    assert ended.done() == (end != "release")
    assert ended.cancelled() == (end == "cancel")


def test_releasing_a_future_that_is_not_watched_has_no_effect():
    async def steps(deadlines, make_future):
        deadlines.release(make_future())

    assert play(steps)[1] == 0
