"""The budget that the batcher grants: by queue waits, by deadlines, and its recovery at rest."""

import asyncio
import math

from service.engine.rows import Timing
from tests.support.batching import Harness, make_row, play


def test_rows_that_waited_are_granted_less_and_their_results_say_so():
    async def steps(harness):
        first = await harness.occupy()
        waiting = harness.submit(make_row(), make_row(), make_row(), make_row(budget=1))
        await harness.clock.advance(0.05)
        harness.session.released.set()
        return [result.budget for result in await asyncio.gather(first, *waiting)]

    limits = {"target_wait_ms": 5, "max_batch_size": 2}
    assert play(steps, adaptive_budget=True, **limits)[0] == [3, 3, 3, 2, 1]
    assert play(steps, adaptive_budget=False, **limits)[0] == [3, 3, 3, 3, 1]
    # Nor where a run takes as long at every budget, as on a GPU.
    flat = [Timing(3, volume, 1e-6 * volume) for volume in (1, 100)]
    assert play(steps, adaptive_budget=True, timings=flat, **limits)[0] == [3, 3, 3, 3, 1]


def test_the_level_rises_while_no_row_arrives_and_the_metric_follows():
    async def steps(harness):
        levels = [harness.level()]
        futures = [await harness.occupy(), *harness.submit(*[make_row()] * 3)]
        await harness.clock.advance(0.02)
        harness.session.released.set()
        await asyncio.gather(*futures)
        levels.append(harness.level())
        for _ in range(3):
            await harness.clock.advance(0.0625)
            levels.append(harness.level())
        return levels

    levels, _ = play(steps, max_batch_size=1, target_wait_ms=1, recover_s=0.0625)
    assert levels == [3, 1, 2, 3, 3]


def test_the_level_is_infinite_until_the_batcher_starts():
    async def steps():
        return Harness().level()

    assert asyncio.run(steps()) == math.inf


def test_a_deadline_too_near_for_every_step_is_granted_fewer():
    slow = [Timing(b, volume, 0.1 * (1 + b)) for b in (0, 3) for volume in (1, 100)]

    async def steps(harness):
        harness.session.released.set()
        budgets = []
        for seconds in (10, 0.35, 0.15):
            (future,) = harness.submit(make_row(), within=seconds)
            budgets.append((await future).budget)
        return budgets

    assert play(steps, timings=slow)[0] == [3, 2, 0]
