"""Tools of the measurements: a clock for services, bytes in files, and percentiles of lookups."""

import subprocess
import sys

import pytest

from loadtest.server import ServerError
from loadtest.state import erasure
from loadtest.state.clock import Clock
from loadtest.state.erasure import occurrences
from loadtest.state.load import lookup_quantile

PROGRAM = """
import asyncio, sys, time
print(time.time_ns() // 1_000_000, round(time.time(), 3))
began = time.monotonic()
asyncio.run(asyncio.sleep(0.01))
print(time.monotonic() > began)
sys.stdout.flush(); sys.stdin.readline()
print(time.time_ns() // 1_000_000)
"""


def test_a_process_below_the_clock_reads_its_time_and_waits_by_the_real_one(tmp_path):
    clock = Clock(tmp_path / "clock", 1_700_000_000_123)
    with subprocess.Popen(
        [*clock.wrapper, sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        clock.set(1_700_000_500_000)
        rest, _ = process.communicate("\n", timeout=30)
    assert lines == ["1700000000123 1700000000.123\n", "True\n"]
    assert rest == "1700000500000\n"


def test_every_occurrence_counts_in_names_and_over_borders_of_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(erasure, "CHUNK", 7)
    (tmp_path / "a").write_bytes(b"..victim.victim" + b"." * 5 + b"victimvictim")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "of-victim").write_bytes(b"vict.im")
    assert occurrences(tmp_path, b"victim") == 5
    assert occurrences(tmp_path, b"nobody") == 0


def test_the_quantile_of_lookups_is_the_bound_of_its_bucket():
    before = {0.001: 10.0, 0.01: 10.0, float("inf"): 10.0}
    after = {0.001: 100.0, 0.01: 109.0, float("inf"): 110.0}
    assert lookup_quantile(before, after, 0.9) == 0.001
    assert lookup_quantile(before, after, 0.99) == 0.01
    with pytest.raises(ServerError, match="no lookup"):
        lookup_quantile(after, after, 0.99)
