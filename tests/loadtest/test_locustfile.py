"""The Locust file in a process of its own: its verdict is the exit status."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from loadtest import load
from loadtest.cli import run_command
from tests.support.bundles import BUNDLE, ROOT
from tests.support.fakes import Slow
from tests.support.servers import fresh

ENVIRONMENT = {name: value for name, value in os.environ.items() if "LOCUST" not in name}
SHORT = ["--bundle", str(BUNDLE), "--seconds", "2", "--users", "2"]


def run(*command):
    """Return exit status and output."""
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def locust(base, *arguments):
    """Run Locust for some seconds."""
    return run(
        sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless",
        "--host", base, "-u", "8", "-r", "8", "-t", "2s", "--candidates", "20", "--only-summary",
        *arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(session):
    with fresh(session) as url:
        yield url


def test_the_gate_passes_when_the_bars_are_kept(base):
    status, output = locust(base, "-u", "20", "-r", "20", "-t", "3s", "--slo-p99-ms", "5000")
    assert status == 0, output
    for name in ("ids", "history", "inline", "mixed", "constraints", "explain", "batch", "bad"):
        assert f" {name} " in output
    assert "reasoning steps" in output
    assert "kept    p99 ms" in output


def test_the_gate_fails_for_a_service_that_is_too_slow(session):
    with fresh(Slow(session, 0.3), brief_run_ms=0) as url:
        status, output = locust(url, "IdsOnly", "--slo-p99-ms", "200")
    assert status == 1
    assert "MISSED  p99 ms" in output
    assert "kept    failed" in output


def test_the_gate_fails_when_lists_are_not_ranked(session):
    with fresh(Slow(session, 0.3), brief_run_ms=0, timeout_ms=50) as url:
        arguments = ("IdsOnly", "--slo-p99-ms", "5000")
        strict, output = locust(url, *arguments)
        lenient, _ = locust(url, *arguments, "--slo-degraded", "1")
    assert (strict, lenient) == (1, 0), output
    assert "MISSED  degraded" in output


def test_the_gate_fails_without_a_service():
    status, output = locust("http://127.0.0.1:9", "IdsOnly")
    assert status == 1
    assert "MISSED  failed" in output


@pytest.mark.parametrize("shape", ["ramp", "step", "spike", "soak"])
def test_a_run_with_each_shape_of_load_keeps_its_bars(base, shape):
    status, output = locust(base, "IdsOnly", "--shape", shape, "--slo-p99-ms", "5000")
    assert status == 0, output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["NoSuchUser"], 2, "NoSuchUser"),
        (["--no-such-option"], 2, "--no-such-option"),
        (["IdsOnly", "--slo-p99-ms", "0.001"], 1, "MISSED  p99 ms"),
    ],
)
def test_load_tells_wrong_arguments_from_a_missed_bar(
    base, monkeypatch, capfd, arguments, status, message
):
    running = contextlib.nullcontext(SimpleNamespace(url=base))
    monkeypatch.setattr(load, "serving", lambda bundle: running)
    assert run_command("load", [*SHORT, "--", *arguments]) == status
    printed, errors = capfd.readouterr()
    assert message in printed + errors


def test_load_starts_a_service_whose_bars_are_kept():
    arguments = ["IdsOnly", "--slo-p99-ms", "5000"]
    status, output = run(sys.executable, "-m", "loadtest", "load", *SHORT, "--", *arguments)
    assert status == 0, output
    assert "kept    p99 ms" in output


def test_percentiles_are_not_rounded_at_the_bar_and_add_up_over_workers():
    # In a process of its own: Locust patches sockets and threads when it is imported.
    code = """
from loadtest.locustfile import Tally, record, tally
for _ in range(98):
    record(response_time=12.0)
record(response_time=104.0)
record(response_time=104.04)
print(tally.percentile_ms(0.98), tally.percentile_ms(0.99), tally.percentile_ms(1.0))
master = Tally()
master.merge(tally.take())
print(master.percentile_ms(0.99), tally.percentile_ms(0.99))
"""
    status, output = run(sys.executable, "-c", code)
    assert status == 0, output
    assert output.splitlines()[-2:] == ["12.0 104.0 104.1", "104.0 0.0"]
