"""The comparison with hey, whose place a script takes that reports fixed times."""

import json

import pytest

from loadtest.cli import run_command


@pytest.fixture
def hey(tmp_path, monkeypatch):
    """Put a script named hey on the path and return a function that sets its output and status."""

    def install(output, status=0):
        script = tmp_path / "hey"
        script.write_text(f"#!/bin/sh\nprintf '{output}'\nexit {status}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


SHORT = ["--rate", "20", "--seconds", "0.5", "--turns", "1"]


def test_medians_that_differ_are_reported_with_status_1(hey, tmp_path):
    hey("response-time,status\\n10.0,200\\n10.0,200\\n")
    out = tmp_path / "agree.json"
    assert run_command("agree", [*SHORT, "--out", str(out)]) == 1
    report = json.loads(out.read_text())
    assert report["p50_ms"]["hey"] == [10_000.0]
    assert 0 < report["p50_ms"]["ours"][0] < 5_000
    assert report["ours_over_hey"] < 0.5


def test_a_failure_of_hey_is_reported(hey, tmp_path, capsys):
    hey("", status=3)
    assert run_command("agree", [*SHORT, "--out", str(tmp_path / "agree.json")]) == 2
    assert "loadtest agree: hey: exit status 3" in capsys.readouterr().err


def test_a_missing_hey_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command("agree", SHORT) == 2
    assert "hey is not installed" in capsys.readouterr().err
