"""The Locust file in a process of its own, as it is used: its verdict is the exit code."""

import os
import subprocess
import sys

import pytest

from tests.support.bundles import BUNDLE
from tests.support.fakes import Slow
from tests.support.servers import fresh


def locust(base, *arguments):
    """Run it for some seconds; status and what was printed."""
    run = [
        sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless",
        "--host", base, "-u", "8", "-r", "8", "-t", "4s", "--candidates", "20", "--only-summary",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if "LOCUST" not in name}
    told = subprocess.run(
        [*run, *arguments], cwd=BUNDLE.parents[2], env=environment, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    return told.returncode, told.stdout + told.stderr


@pytest.fixture(scope="module")
def base(session):
    with fresh(session) as url:
        yield url


def test_the_gate_passes_where_the_bars_are_kept(base):
    status, said = locust(base, "-u", "20", "-r", "20", "--slo-p99-ms", "5000")
    assert status == 0, said
    for name in ("ids", "history", "inline", "mixed", "constraints", "explain", "batch", "bad"):
        assert f" {name} " in said
    assert "reasoning steps" in said
    assert "kept    p99 ms" in said


def test_the_gate_fails_a_service_that_is_too_slow(session):
    with fresh(Slow(session, 0.3), brief_run_ms=0) as url:
        status, said = locust(url, "IdsOnly", "--slo-p99-ms", "200")
    assert status == 1
    assert "MISSED  p99 ms" in said
    assert "kept    failed" in said


def test_the_gate_fails_where_lists_are_not_ranked(session):
    with fresh(Slow(session, 0.3), brief_run_ms=0, timeout_ms=50) as url:
        asked = ("IdsOnly", "--slo-p99-ms", "5000")
        strict, said = locust(url, *asked)
        lenient, _ = locust(url, *asked, "--slo-degraded", "1")
    assert (strict, lenient) == (1, 0), said
    assert "MISSED  degraded" in said


def test_the_gate_fails_where_nobody_answers():
    status, said = locust("http://127.0.0.1:9", "IdsOnly")
    assert status == 1
    assert "MISSED  failed" in said


@pytest.mark.parametrize("shape", ["ramp", "step", "spike", "soak"])
def test_a_shape_uses_the_users_and_the_time_it_is_given(base, shape):
    status, said = locust(base, "IdsOnly", "--shape", shape, "--slo-p99-ms", "5000")
    assert status == 0, said
