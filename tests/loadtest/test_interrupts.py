"""overload, soak and reloads write what they measured before an interrupt. Real services.

Both signals end all of them in the same way, so each of the two longer ones gets one.
"""

import contextlib
import itertools
import json
import os
import signal
import threading
from functools import partial

import pytest

from loadtest import monitor, overload, reloads, soak
from loadtest.cli import run_command
from loadtest.errors import Interrupted
from tests.support.processes import poll


@pytest.fixture
def interrupt_after(monkeypatch):
    """Return a function that sends this process a signal some seconds later."""

    def interrupt(number, _):
        raise Interrupted(number)

    earlier = signal.signal(signal.SIGTERM, interrupt)
    monkeypatch.setattr(monitor, "PERIOD_S", 0.05)

    def later(seconds, number):
        threading.Timer(seconds, os.kill, (os.getpid(), number)).start()

    yield later
    signal.signal(signal.SIGTERM, earlier)


def interrupted_while_monitored(module, monkeypatch, interrupt):
    """Interrupt once the measurement that is to be reported has begun; find the capacity soon."""
    monitored = module.monitored
    monkeypatch.setattr(module, "WARM_UP_S", 0.3)
    monkeypatch.setattr(module, "CAPACITY_S", 1.0)

    @contextlib.contextmanager
    def watched(server):
        with monitored(server) as entries:
            interrupt(entries)
            yield entries

    monkeypatch.setattr(module, "monitored", watched)


def test_an_interrupted_overload_is_reported(interrupt_after, monkeypatch, tmp_path):
    after = partial(interrupt_after, 3.0, signal.SIGTERM)
    interrupted_while_monitored(overload, monkeypatch, lambda _: after())
    arguments = ["--seconds", "300", "--rest", "1", "--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        run_command("overload", arguments)
    report = json.loads((tmp_path / "overload.json").read_text("utf-8"))
    assert report["interrupted"] is True
    assert report["failures"] == {}
    assert report["summary"]["unanswered"] == 0
    assert report["summary"]["requests"] > 100
    assert report["series"][-1]["second"] <= 30
    assert "was interrupted" in (tmp_path / "overload.md").read_text("utf-8")


def test_an_interrupted_soak_is_reported(interrupt_after, monkeypatch, tmp_path):
    def once_there_is_a_trend(entries):
        def wait():
            assert poll(lambda: len(entries) >= soak.MIN_ENTRIES + 6, 60)
            interrupt_after(0.0, signal.SIGINT)

        threading.Thread(target=wait).start()

    interrupted_while_monitored(soak, monkeypatch, once_there_is_a_trend)
    out = tmp_path / "soak.json"
    with pytest.raises(KeyboardInterrupt):
        run_command("soak", ["--seconds", "300", "--fill", "0.5", "--out", str(out)])
    report = json.loads(out.read_text("utf-8"))
    assert (report["interrupted"], report["failures"], report["unanswered"]) == (True, {}, 0)
    assert report["requests"] > 20
    assert len(report["p99_ms_by_minute"]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_reloads_are_reported(interrupt_after, monkeypatch, tmp_path, number):
    change_versions = reloads.change_versions

    def change(*arguments):
        stop, pauses = arguments[-1], itertools.count()
        wait = stop.wait

        def pause(seconds):
            if next(pauses) == 0:  # after the first change
                interrupt_after(0.5, number)
            return wait(seconds)

        stop.wait = pause
        return change_versions(*arguments)

    monkeypatch.setattr(reloads, "change_versions", change)
    monkeypatch.setattr(reloads, "WARM_UP_S", 0.3)
    out = tmp_path / "reloads.json"
    arguments = ["--changes", "40", "--pause", "1", "--seconds", "1", "--out", str(out)]
    with pytest.raises(KeyboardInterrupt):
        run_command("reloads", arguments)
    report = json.loads(out.read_text("utf-8"))
    assert (report["interrupted"], report["failed"], report["changes_refused"]) == (True, 0, [])
    assert 1 <= report["changes"] < 40
    assert report["during"]["requests"] > 50
