"""The moments of kills."""

import json
import threading
from typing import Any

import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.loop import kills
from loadtest.loop.kills import FEW, REPORT, STAGES, StageKill, kill_in_flight
from loadtest.loop.served import FEEDBACK, RANKING
from model.retraining.run import STAGES as OF_RETRAINING


def test_the_stages_are_those_of_a_retraining():
    assert tuple(OF_RETRAINING) == STAGES


@pytest.fixture
def write_run(tmp_path):
    """Write the record of the run under way, with its finished stages."""

    def write(finished, outcome=None):
        path = tmp_path / "2" / "run.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"stages": {name: {} for name in finished}, "outcome": outcome}))

    return write


def test_a_retraining_is_killed_in_its_stage_and_not_before(tmp_path, write_run):
    kill = StageKill(tmp_path, "train", 0.0)
    assert not kill.is_due()  # no run
    write_run(STAGES[:2])
    assert not kill.is_due()
    write_run(STAGES[:3])
    assert kill.is_due()
    assert kill.under_way == "train"
    write_run(STAGES[:3], "rejected")
    assert not StageKill(tmp_path, "train", 0.0).is_due()


def test_a_retraining_waits_for_its_delay_unless_the_stage_is_over(tmp_path, write_run):
    kill = StageKill(tmp_path, "publish", 3600.0)
    write_run(STAGES[:-1])
    assert not kill.is_due()
    write_run(STAGES)
    assert kill.is_due()
    assert kill.under_way == REPORT


class Stub:
    """A service whose calls with many lists or events wait until it is killed."""

    def __init__(self, lists):
        self.killed, self.waiting, self.lists = threading.Event(), {}, lists

    def in_flight(self):
        return dict(self.waiting)

    def rank(self, requests, at_once):
        assert at_once == FEW
        if self.lists and len(requests) > self.lists // 3:
            self.waiting[RANKING] = 1
            assert self.killed.wait(10)
        return list(requests)

    def send_feedback(self, events, at_once):
        if len(events) > 3:
            self.waiting[FEEDBACK] = 1
            assert self.killed.wait(10)


@pytest.mark.parametrize("lists", [9, 0])
def test_the_calls_in_flight_at_a_kill_are_those_that_wait(monkeypatch, lists):
    served: Any = Stub(lists)
    order: list[str] = []
    monkeypatch.setattr(kills, "LATEST", 0.3)

    def kill():
        order.append("kill")
        served.killed.set()

    requests: list[Any] = list(range(lists))
    events: list[Any] = list(range(9))
    outage = kill_in_flight(
        served, kill, lambda: order.append("revive"), requests, events, np.random.default_rng(0)
    )
    assert order == ["kill", "revive"]
    assert outage.responses == requests
    # A stream that has ended is not waited for, and the kill is not counted as one amid work.
    assert (outage.in_flight.get(RANKING, 0) > 0) == (lists > 0)


def test_a_stream_that_fails_before_the_kill_is_the_error_of_the_round():
    served: Any = Stub(0)

    def fail(requests, at_once):
        raise LoadTestError("refused")

    served.rank = fail
    with pytest.raises(LoadTestError, match="refused"):
        kill_in_flight(served, served.killed.set, lambda: None, [{}], [], np.random.default_rng(0))
