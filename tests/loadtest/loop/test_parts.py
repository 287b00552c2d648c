"""Logs, steps and an arm over a real service, parts of which are killed."""

import signal

import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.loop.arm import ArmRun
from loadtest.loop.bars import bars_of, sent_of, store_of
from loadtest.loop.first_model import day_log, histories, today, write_log
from loadtest.loop.plan import ARMS, DAY_MS, Scale, world_of
from loadtest.loop.steps import done_once, run_step
from model.study.known_world import SLATE, Size
from tests.support.guide import SCALE as GUIDE_SCALE

SCALE = Scale(Size(users=20, items=20, arrivals=2, lists=24, rounds=4), days=4)


def test_the_first_log_has_the_clicks_of_random_slates(tmp_path):
    world = world_of(0, SCALE)
    write_log(tmp_path, world, 0)
    log = day_log(world, -1, 0)
    assert len(log) == SCALE.size.lists * SLATE
    assert log["position"].unique().sort().to_list() == list(range(SLATE))
    clicks = world.clicks(world.lists(-1), np.tile(np.arange(SLATE), (SCALE.size.lists, 1)))
    assert log["label"].sum() == clicks.sum()
    past = histories(world, 0, 6)
    assert max(map(len, past.values())) == 6
    times = [[answer["time"] for answer in answers] for answers in past.values()]
    assert times == [sorted(each) for each in times]


def test_a_step_is_killed_or_refused_with_its_last_line(tmp_path):
    log = tmp_path / "log"
    assert run_step(log, "timeit", "-n", "1", "pass") == 0
    assert run_step(
        log, "timeit", "-s", "import time", "time.sleep(60)", kill_when=lambda: True
    ) == (-signal.SIGKILL)
    # One that ends before its kill has the status of its own.
    assert run_step(log, "timeit", "-n", "1", "pass", kill_when=lambda: False) == 0
    with pytest.raises(LoadTestError, match="no_such_module"):
        run_step(log, "no_such_module")


def test_a_result_is_kept_and_an_unfinished_one_is_not(tmp_path):
    path = tmp_path / "result.json"

    def fail():
        raise LoadTestError("interrupted")

    with pytest.raises(LoadTestError):
        done_once(path, fail)
    assert not path.exists()
    assert done_once(path, lambda: {"value": 1}) == {"value": 1}
    assert done_once(path, fail) == {"value": 1}


@pytest.mark.long
def test_a_loop_whose_parts_are_killed_while_they_work_keeps_what_it_acknowledged(first, tmp_path):
    """Two days, in which the store and the service are killed and nothing is settled to learn."""
    run = ArmRun(
        tmp_path / "loop", ARMS["loop"], GUIDE_SCALE, world_of(0, GUIDE_SCALE),
        today() - 10 * DAY_MS, first, 0, "redis",
    )  # fmt: skip
    outcome = run.run()
    assert [sum(day["versions"].values()) for day in outcome["days"]] == [80, 80]
    assert [kill["part"] for kill in outcome["kills"]] == ["store", "service"]
    bars = bars_of({"loop": [outcome]}, [], True, ["store", "service"])
    missed = {bar["rule"]: bar["figure"] for bar in bars if not bar["kept"]}
    # No retraining comes within two days.
    assert missed.keys() == {
        "a candidate passes its gates as canary in every loop",
        "a canary is promoted in every loop",
    }
    assert store_of(outcome)["due"] > 3 * 40
    journal = outcome["journal"]
    assert sent_of(outcome) == journal["events acknowledged"] > 100
    assert journal["lists answered"] == 160
    assert outcome["calls"]["calls sent again"] > 0
    assert all(day["steps"] >= 0.0 for day in outcome["days"])
