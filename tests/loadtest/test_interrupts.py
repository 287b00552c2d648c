"""overload, soak and reloads write what they measured before an interrupt. Real services."""

import contextlib
import json
import os
import signal
import threading

import pytest

from loadtest import monitor, overload, reloads, soak
from loadtest.cli import run_command
from loadtest.errors import Interrupted


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def interrupt_after(request, monkeypatch):
    """Return a function that interrupts this process some seconds later."""

    def interrupt(number, _):
        raise Interrupted(number)

    earlier = signal.signal(signal.SIGTERM, interrupt)
    monkeypatch.setattr(monitor, "PERIOD_S", 0.05)

    def later(seconds):
        threading.Timer(seconds, os.kill, (os.getpid(), request.param)).start()

    yield later
    signal.signal(signal.SIGTERM, earlier)


def interrupted_while_monitored(module, monkeypatch, interrupt):
    """Interrupt once the measurement that is to be reported has begun."""
    monitored = module.monitored

    @contextlib.contextmanager
    def watched(server):
        with monitored(server) as entries:
            interrupt()
            yield entries

    monkeypatch.setattr(module, "monitored", watched)


def test_an_interrupted_overload_is_reported(interrupt_after, monkeypatch, tmp_path):
    interrupted_while_monitored(overload, monkeypatch, lambda: interrupt_after(5.0))
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
    interrupted_while_monitored(soak, monkeypatch, lambda: interrupt_after(5.0))
    out = tmp_path / "soak.json"
    with pytest.raises(KeyboardInterrupt):
        run_command("soak", ["--seconds", "300", "--fill", "0.5", "--out", str(out)])
    report = json.loads(out.read_text("utf-8"))
    assert (report["interrupted"], report["failures"], report["unanswered"]) == (True, {}, 0)
    assert report["requests"] > 100
    assert len(report["p99_ms_by_minute"]) == 1


def test_interrupted_reloads_are_reported(interrupt_after, monkeypatch, tmp_path):
    change_versions = reloads.change_versions

    def change(*arguments):
        interrupt_after(4.0)
        return change_versions(*arguments)

    monkeypatch.setattr(reloads, "change_versions", change)
    out = tmp_path / "reloads.json"
    arguments = ["--changes", "40", "--pause", "1", "--seconds", "1", "--out", str(out)]
    with pytest.raises(KeyboardInterrupt):
        run_command("reloads", arguments)
    report = json.loads(out.read_text("utf-8"))
    assert (report["interrupted"], report["failed"], report["changes_refused"]) == (True, 0, [])
    assert 1 <= report["changes"] < 40
    assert report["during"]["requests"] > 50
