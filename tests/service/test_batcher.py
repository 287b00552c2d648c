"""Admission, grouping and deadlines of the queue, with a session that is slow on purpose."""

import asyncio
import threading
import time

import numpy as np
import pytest

from service.batcher import Batcher
from service.constraints import Rules
from service.errors import DeadlineExceeded, InferenceFailed, Overloaded
from service.metrics import Metrics
from service.session import ModelError, Row, Slate


class Gate:
    """Stands in for a session: holds each run until it is opened, fails on slate_size 9."""

    def __init__(self):
        self.open, self.runs = threading.Event(), []

    def run(self, rows):
        self.open.wait(10)
        self.runs.append(len(rows))
        if any(row.slate_size == 9 for row in rows):
            raise ModelError("planted")
        zeros = np.zeros(1, np.float32)
        return [Slate(np.array([0]), zeros, zeros, zeros, np.array([0])) for _ in rows]


def row(size=1):
    rules = Rules.none(9, size)
    return Row(
        np.zeros((9, 1), np.float32), np.zeros((9, 1), np.int64), size, 0, 0.0, 1.5, 0.7, rules
    )


def soon(seconds=10.0):
    return time.monotonic() + seconds


def scenario(steps, max_queue=8, max_batch_size=4):
    """Run `steps(batcher, gate)` in a loop of its own; returns its result and the gate."""
    gate = Gate()

    async def play():
        batcher = Batcher(gate, Metrics(), max_batch_size, max_queue)
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
        batcher = Batcher(gate, metrics, 4, 8)
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


def test_closing_lets_what_runs_and_what_waits_finish():
    async def play(gate):
        batcher = Batcher(gate, Metrics(), 1, 8)
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

    outcomes, _ = scenario(steps)
    assert isinstance(outcomes[1], InferenceFailed)
    assert outcomes[0].slate.indices.tolist() == outcomes[2].slate.indices.tolist() == [0]
