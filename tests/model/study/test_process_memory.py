"""Memory of a command, stage by stage."""

import subprocess
import time

import pytest

from model.study.process_memory import INTERVAL_S, watch


def test_a_stage_that_is_seen_once_the_process_has_ended_is_no_stage():
    names = iter(("early", "late"))

    def stage():
        name = next(names, "later")
        if name != "early":
            time.sleep(2.0)  # the process ends meanwhile
        return name

    (only,) = watch(["sleep", str(6 * INTERVAL_S)], stage)
    assert only.stage == "early"
    assert only.peak_mb >= only.main_mb > 0


def test_each_stage_has_its_time_and_memory():
    began = time.monotonic()

    def stage():
        return "early" if time.monotonic() < began + 1.0 else "late"

    early, late = watch(["sleep", "2"], stage)
    assert (early.stage, late.stage) == ("early", "late")
    assert early.peak_mb > 0 < late.peak_mb
    assert early.seconds + late.seconds == pytest.approx(2, abs=0.9)
    assert early.seconds != pytest.approx(2, abs=0.9)


def test_a_command_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError, match="status 1"):
        watch(["false"], lambda: "all")
