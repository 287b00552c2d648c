"""The programs in examples/ run against a live service."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# The client is installed for its users; here it comes from the checkout.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "client")}


def output_of(*command, timeout_s=60):
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_list_is_ranked_with_its_pinned_and_without_its_blocked_item(url):
    lines = output_of(sys.executable, EXAMPLES / "rank.py", url).splitlines()
    assert [line.split(":")[0] for line in lines] == ["0", "1", "2"]
    assert lines[0] == "0: 50, number 4 of the candidates"
    assert "10," not in [line.split()[1] for line in lines]


def test_the_rows_of_a_page_are_ranked_in_one_call(url):
    rows = output_of(sys.executable, EXAMPLES / "rank_many.py", url).splitlines()
    assert re.fullmatch(r"for you: \d+, \d+, \d+ \(page-1\.0\)", rows[0])
    assert re.fullmatch(r"classics: \d+, \d+ \(page-1\.1\)", rows[1])
    assert rows[2].removeprefix("top: ") in ("318", "356", "593")


def test_diversity_replaces_an_mmr_step(url):
    lines = output_of(sys.executable, EXAMPLES / "diversity.py", url).splitlines()
    slates = [re.fullmatch(r"(before|after): ([\d ]+) with (\d+) genres", line) for line in lines]
    (before, after) = [match for match in slates if match is not None]
    assert (before[1], after[1]) == ("before", "after")
    for match in (before, after):
        assert len(set(match[2].split())) == 5
    assert int(after[3]) >= int(before[3])


@pytest.mark.long
def test_a_log_becomes_a_bundle_that_is_served(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "own_log.py", tmp_path, str(port)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    slate = re.search(r"^slate: (\S+) (\S+) (\S+) degraded: None$", done.stdout, re.MULTILINE)
    assert slate is not None, done.stdout
    assert set(slate.groups()) == {"tea-1", "paper-2", "garden-3"}
    assert (tmp_path / "models" / "shop" / "1" / "manifest.json").is_file()
