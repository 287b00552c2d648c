"""Admission, grouping and deadlines of the queue, with a session that is slow on purpose."""

import asyncio
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from service.batching.admission import SHADOW_PRIORITY
from service.batching.batcher import Batcher
from service.batching.budget import Forecast
from service.engine.collate import ModelError
from service.engine.constraints import SlateConstraints
from service.engine.rows import Row, Slate, SlateSampling, Timing
from service.errors import DeadlineExceeded, InferenceFailed, Overloaded
from service.metrics import Metrics
from service.settings import Settings

QUICK = Forecast(
    [Timing(b, volume, 1e-6 * volume * (1 + b)) for b in (0, 3) for volume in (1, 100)]
)


class Gate:
    """Stands in for a session: holds each run until it is opened, fails on slate_size 9."""

    def __init__(self, provider="CPUExecutionProvider"):
        self.open, self.runs, self.rows, self.threads = threading.Event(), [], [], []
        self.manifest, self.graph_cpu_s = SimpleNamespace(budget=3), 0.0
        self.provider = provider

    def run(self, rows):
        self.open.wait(10)
        self.threads.append(threading.current_thread())
        self.runs.append(len(rows))
        self.rows.append(rows)
        if any(row.slate_size == 9 for row in rows):
            raise ModelError("planted")
        zeros = np.zeros(1, np.float32)
        return [Slate(np.array([0]), zeros, zeros, zeros, np.array([0])) for _ in rows]


def row(size=1, candidates=9, budget=3, sampling=None):
    rules = SlateConstraints.none(candidates, size)
    numbers, tokens = np.zeros((candidates, 1), np.float32), np.zeros((candidates, 1), np.int64)
    return Row(numbers, tokens, size, budget, 0.0, 1.5, 0.7, rules, sampling)


def batching(gate, metrics, max_batch_size=4, max_queue=8, forecast=QUICK, **settings):
    # Each run in a thread, or a closed gate would stop the loop.
    limits = {"max_batch_size": max_batch_size, "max_queue": max_queue, "brief_run_ms": 0}
    return Batcher(gate, metrics, Settings(**{**limits, **settings}), forecast)


def soon(seconds=10.0):
    return time.monotonic() + seconds


def scenario(steps, provider="CPUExecutionProvider", **settings):
    """Run `steps(batcher, gate)` in a loop of its own; returns its result and the gate."""
    gate = Gate(provider)

    async def play():
        batcher = batching(gate, Metrics(), **settings)
        batcher.start()
        try:
            return await steps(batcher, gate)
        finally:
            gate.open.set()
            await batcher.close()

    return asyncio.run(play()), gate


def test_what_arrives_during_a_run_shares_the_next_ones():
    async def steps(batcher, gate):
        futures = batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        for _ in range(6):
            futures += batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(*futures)

    outcomes, gate = scenario(steps)
    assert gate.runs == [1, 4, 2]
    assert outcomes[-1].queue_s >= 0.05 > outcomes[0].queue_s


@pytest.mark.parametrize(
    ("brief_run_ms", "provider", "on_loop"),
    [
        (5.0, "CPUExecutionProvider", [True, True, False]),
        (5.0, "CUDAExecutionProvider", [False, False, False]),
        (0.0, "CPUExecutionProvider", [False, False, False]),
    ],
)
def test_a_brief_run_on_the_cpu_is_made_on_the_loop_others_have_a_thread(
    brief_run_ms, provider, on_loop
):
    async def steps(batcher, gate):
        gate.open.set()
        await asyncio.gather(*batcher.submit([row()], [soon()]))
        await asyncio.gather(*batcher.submit([row()] * 3, [soon()] * 3))
        await asyncio.gather(*batcher.submit([row(candidates=5000)], [soon()]))  # of 20 ms
        return [thread is threading.main_thread() for thread in gate.threads]

    made, gate = scenario(steps, brief_run_ms=brief_run_ms, provider=provider)
    assert gate.runs == [1, 3, 1]
    assert made == on_loop


def test_a_run_for_which_nobody_waits_does_not_hold_the_loop():
    async def steps(batcher, gate):
        gate.open.set()
        for priority in (SHADOW_PRIORITY, SHADOW_PRIORITY - 1):
            await asyncio.gather(*batcher.submit([row()], [soon()], priority))
        return [thread is threading.main_thread() for thread in gate.threads]

    assert scenario(steps, brief_run_ms=5.0)[0] == [False, True]


def test_answers_leave_and_callers_come_in_between_two_runs_on_the_loop():
    seen = []

    async def steps(batcher, gate):
        gate.open.set()

        async def call():
            (answer,) = batcher.submit([row()], [soon()])
            await answer
            seen.append(len(gate.runs))

        await asyncio.gather(*(call() for _ in range(3)))

    scenario(steps, brief_run_ms=5.0, max_batch_size=1)
    assert seen == [1, 2, 3]  # runs so far at each answer


def test_more_than_the_queue_holds_is_refused_whole():
    async def steps(batcher, gate):
        waiting = batcher.submit([row()] * 7, [soon()] * 7)
        with pytest.raises(Overloaded, match="holds 8"):
            batcher.submit([row()] * 2, [soon()] * 2)
        gate.open.set()
        return await asyncio.gather(*waiting)

    assert len(scenario(steps)[0]) == 7


def test_a_deadline_is_checked_at_the_door_and_before_the_run():
    async def steps(batcher, gate):
        (never,) = batcher.submit([row()], [soon(-1)])
        with pytest.raises(DeadlineExceeded, match="admission"):
            await never
        batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        (late,) = batcher.submit([row()], [soon(0.05)])
        await asyncio.sleep(0.1)
        gate.open.set()
        with pytest.raises(DeadlineExceeded, match="queue"):
            await late

    _, gate = scenario(steps)
    assert gate.runs == [1]


def test_a_cancelled_row_never_runs():
    async def steps(batcher, gate):
        batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        (gone,) = batcher.submit([row()], [soon()])
        (stays,) = batcher.submit([row()], [soon()])
        gone.cancel()
        gate.open.set()
        await stays

    assert scenario(steps)[1].runs == [1, 1]


def test_a_deadline_that_passes_in_the_queue_is_told_from_a_client_that_went_away():
    metrics = Metrics()

    def shed(reason):
        return metrics.shed.labels(reason)._value.get()

    async def play(gate):
        batcher = batching(gate, metrics)
        batcher.start()
        batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        (late,) = batcher.submit([row()], [soon(0.05)])
        (gone,) = batcher.submit([row()], [soon()])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):  # as the service waits
                await late
        await asyncio.sleep(0.05)
        gone.cancel()
        gate.open.set()
        await batcher.close()

    asyncio.run(play(Gate()))
    assert (shed("deadline"), shed("disconnected")) == (1.0, 1.0)


def test_lists_that_nobody_waits_for_take_no_place_in_a_full_queue():
    metrics = Metrics()

    async def play(gate):
        batcher = batching(gate, metrics, 1, max_queue=2)
        batcher.start()
        (first,) = batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        left, stays = batcher.submit([row(), row()], [soon()] * 2)
        with pytest.raises(Overloaded):
            batcher.submit([row()], [soon()])
        left.cancel()
        (comes,) = batcher.submit([row()], [soon()])
        gate.open.set()
        await asyncio.gather(first, stays, comes)
        await batcher.close()

    gate = Gate()
    asyncio.run(play(gate))
    assert gate.runs == [1, 1, 1]
    assert metrics.shed.labels("disconnected")._value.get() == 1


def test_closing_lets_what_runs_and_what_waits_finish():
    async def play(gate):
        batcher = batching(gate, Metrics(), 1)
        batcher.start()
        futures = batcher.submit([row(), row()], [soon()] * 2)
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_later(0.05, gate.open.set)
        await batcher.close()
        return [future.done() for future in futures]

    assert asyncio.run(play(Gate())) == [True, True]


def test_one_bad_row_does_not_cost_its_neighbours_their_answer():
    async def steps(batcher, gate):
        futures = batcher.submit([row(), row(9), row()], [soon()] * 3)
        gate.open.set()
        return await asyncio.gather(*futures, return_exceptions=True)

    outcomes, gate = scenario(steps)
    assert gate.runs == [3, 1, 1, 1]
    assert isinstance(outcomes[1], InferenceFailed)
    assert outcomes[0].slate.indices.tolist() == outcomes[2].slate.indices.tolist() == [0]


def test_a_run_that_is_taken_apart_is_counted_once_and_lowers_the_level_once():
    metrics = Metrics()

    async def play(gate):
        batcher = batching(gate, metrics, 3, target_wait_ms=1)
        batcher.start()
        batcher.submit([row()], [soon()])
        await asyncio.sleep(0.02)
        futures = batcher.submit([row()] * 3 + [row(9)] * 3, [soon()] * 6)
        await asyncio.sleep(0.02)
        gate.open.set()
        await asyncio.gather(*futures, return_exceptions=True)
        await batcher.close()
        return batcher.level

    gate = Gate()
    assert asyncio.run(play(gate)) == 2
    assert gate.runs == [1, 3, 3, 1, 1, 1]
    assert metrics.batch_size._sum.get() == 7


def test_background_lists_wait_behind_interactive_ones_and_make_room_for_them():
    async def steps(batcher, gate):
        (first,) = batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        behind = batcher.submit([row(budget=2) for _ in range(8)], [soon()] * 8, priority=1)
        ahead = batcher.submit([row(budget=1)] * 2, [soon()] * 2)
        with pytest.raises(Overloaded):  # nobody is less urgent than these
            batcher.submit([row()], [soon()], priority=1)
        gate.open.set()
        found = await asyncio.gather(*behind, return_exceptions=True)
        await asyncio.gather(first, *ahead)
        return [isinstance(each, Overloaded) for each in found]

    shed, gate = scenario(steps, adaptive_budget=False)
    assert sum(shed) == 2
    assert [each.budget for each in gate.rows[1]] == [1, 1, 2, 2]


def test_a_run_takes_lists_of_one_size_class_and_no_more_slates_than_a_batch():
    async def steps(batcher, gate):
        (first,) = batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        sampled = row(sampling=SlateSampling(3, 0))
        sizes = [row(), row(candidates=200), sampled, row(candidates=150), row(), row()]
        futures = batcher.submit(sizes, [soon()] * 6)
        gate.open.set()
        await asyncio.gather(first, *futures)

    _, gate = scenario(steps)
    found = [[(len(r.numbers), r.sampling is not None) for r in rows] for rows in gate.rows[1:]]
    assert found == [
        [(9, False), (9, True)],  # four slates
        [(200, False), (150, False)],
        [(9, False), (9, False)],
    ]


def test_a_list_that_cannot_be_answered_in_time_is_refused_at_the_door_though_not_when_idle():
    slow = Forecast(
        [Timing(b, volume, 0.02 * volume * (1 + b)) for b in (0, 3) for volume in (1, 100)]
    )

    async def steps(batcher, gate):
        futures = batcher.submit([row()] * 3, [soon()] * 3)  # 0.18 s each at budget 0
        await asyncio.sleep(0.05)
        (late,) = batcher.submit([row()], [soon(0.3)])
        (fine,) = batcher.submit([row()], [soon(10)])
        gate.open.set()
        await asyncio.gather(*futures, fine)
        with pytest.raises(Overloaded, match="past its deadline"):
            await late
        (alone,) = batcher.submit([row()], [soon(0.1)])
        return await alone

    assert scenario(steps, forecast=slow, max_batch_size=1)[0].slate.indices.tolist() == [0]


def test_lists_that_wait_are_reasoned_about_less_and_told_so():
    async def steps(batcher, gate):
        (first,) = batcher.submit([row()], [soon()])
        await asyncio.sleep(0.05)
        late = batcher.submit([row(), row(), row(), row(budget=1)], [soon()] * 4)
        await asyncio.sleep(0.05)
        gate.open.set()
        return [outcome.budget for outcome in await asyncio.gather(first, *late)]

    limits = {"target_wait_ms": 5, "max_batch_size": 2}
    assert scenario(steps, adaptive_budget=True, **limits)[0] == [3, 3, 3, 2, 1]
    assert scenario(steps, adaptive_budget=False, **limits)[0] == [3, 3, 3, 3, 1]
    # Nor where a run takes as long at every budget, as on a GPU.
    flat = Forecast([Timing(3, volume, 1e-6 * volume) for volume in (1, 100)])
    assert scenario(steps, adaptive_budget=True, forecast=flat, **limits)[0] == [3, 3, 3, 3, 1]


def test_with_nobody_there_the_level_rises_and_the_metric_tells_it():
    metrics = Metrics()

    async def play(gate):
        batcher = batching(gate, metrics, 1, target_wait_ms=1, recover_s=0.05)
        told = [metrics.budget_level._value.get()]
        batcher.start()
        told.append(metrics.budget_level._value.get())
        futures = batcher.submit([row()] * 4, [soon()] * 4)
        await asyncio.sleep(0.02)
        gate.open.set()
        await asyncio.gather(*futures)
        told.append(metrics.budget_level._value.get())
        await asyncio.sleep(0.3)
        told.append(metrics.budget_level._value.get())
        await batcher.close()
        return told

    assert asyncio.run(play(Gate())) == [math.inf, 3, 1, 3]


def test_a_deadline_that_cannot_pay_for_every_step_gets_fewer():
    slow = Forecast([Timing(b, volume, 0.1 * (1 + b)) for b in (0, 3) for volume in (1, 100)])

    async def steps(batcher, gate):
        gate.open.set()
        budgets = []
        for seconds in (10, 0.35, 0.15):
            (future,) = batcher.submit([row()], [soon(seconds)])
            budgets.append((await future).budget)
        return budgets

    assert scenario(steps, forecast=slow)[0] == [3, 2, 0]


def test_a_window_waits_for_company_but_not_past_what_a_deadline_bears():
    async def steps(batcher, gate):
        gate.open.set()
        first = batcher.submit([row()], [soon()])
        await asyncio.sleep(0.02)
        together = batcher.submit([row()], [soon()])
        await asyncio.gather(*first, *together)
        began = time.monotonic()
        (pressed,) = batcher.submit([row()], [soon(0.05)])
        await pressed
        return time.monotonic() - began

    seconds, gate = scenario(steps, batch_window_ms=300)
    assert gate.runs == [2, 1]
    assert seconds < 0.2
