"""A load test that is stopped or killed leaves no process behind. Real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.bundles import ROOT
from tests.support.stub_servers import wait_for

PATIENCE_S = 60.0


def parents():
    """Return the parent of every live process, by process id."""
    table = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        if state != "Z":
            table[int(status.parent.name)] = int(parent)
    return table


def descendants(root):
    table = parents()
    family = {root}
    while more := {child for child, parent in table.items() if parent in family} - family:
        family |= more
    return family - {root}


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "loadtest", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def wait_for_children(process, *texts):
    """Wait until there is a descendant with each text in its command line; return all of them."""
    family = set()

    def complete():
        nonlocal family
        assert process.poll() is None, process.communicate()
        family = descendants(process.pid)
        lines = [command_line(pid) for pid in family]
        return all(any(text in line for line in lines) for text in texts)

    wait_for(complete)
    return family


def assert_gone(family):
    wait_for(lambda: not family & set(parents()))


COMMANDS = {
    "bench": (
        ["bench", "--rate", "20", "--seconds", "300", "--workers", "2", "--generators", "2"],
        ["-m service", "multiprocessing.spawn"],
    ),
    "load": (["load", "--seconds", "300", "--", "IdsOnly"], ["-m service", "-m locust"]),
    "overload": (["overload", "--seconds", "300"], ["-m service"]),
    "fuzz": (["fuzz", "--requests", "1000000"], ["-m service", "multiprocessing.spawn"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_left_after_sigkill_of_the_load_test(name, tmp_path):
    arguments, children = COMMANDS[name]
    out = ["--out", str(tmp_path)] if name in ("bench", "overload") else []
    process = start(arguments[0], *out, *arguments[1:])
    family = wait_for_children(process, *children)
    time.sleep(0.5)  # into the rate
    family |= descendants(process.pid)
    process.kill()
    process.communicate()
    assert_gone(family)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_rate_under_way_and_all_that_was_started(number, tmp_path):
    arguments, children = COMMANDS["bench"]
    process = start(*arguments, "--out", str(tmp_path))
    family = wait_for_children(process, *children)
    time.sleep(0.5)
    family |= descendants(process.pid)
    process.send_signal(number)
    began = time.monotonic()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - began < 60  # of the 300 that the rate takes
    assert process.returncode == 128 + number
    assert "interrupted" in errors
    assert_gone(family)


PEERS = """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text("started")
try:
    time.sleep(300)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1]).write_text("stopped")
    sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_peers_gets_an_interrupt_whatever_ends_the_load_test(number, tmp_path):
    package, mark = tmp_path / "peers", tmp_path / "mark"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PEERS)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest", "peers", str(mark)], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(mark.exists)
    process.send_signal(number)
    process.wait(PATIENCE_S)
    wait_for(lambda: mark.read_text() == "stopped")


def test_the_exit_status_of_peers_is_passed_on():
    process = start("peers", "--no-such-option")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
