"""The report of the entity store, and parts that need no second run."""

import json

import pytest

from loadtest import parts
from loadtest.cli import parse, run_command
from loadtest.errors import MISSED, PASSED, UsageError
from loadtest.measured import Bar, Measured
from loadtest.results import ROOT
from loadtest.state import run
from loadtest.state.command import PARTS
from loadtest.state.report import OPTIONS, report_in


@pytest.fixture
def measured_parts(monkeypatch):
    """Names of the parts that were measured, each with one row; `erasure` misses its bar."""
    names = []

    def measure_part(name, options):
        names.append(name)
        measured = Measured()
        measured.add("figure", "lmdb", 2.0, "s", Bar("<=", 1.0 if name == "erasure" else 3.0))
        return measured

    monkeypatch.setattr(run, "measure_part", measure_part)
    monkeypatch.setattr(parts, "current_commit", lambda out: "0" * 40)
    return names


def test_a_part_is_measured_once_for_a_commit_and_its_options(measured_parts, tmp_path):
    out = ["--out", str(tmp_path)]
    assert run_command("state", [*out, "--only", "lookup", "kills"]) == PASSED
    assert run_command("state", [*out, "--only", "lookup", "kills", "load"]) == PASSED
    assert measured_parts == ["lookup", "kills", "load"]
    run_command("state", [*out, "--only", "lookup", "kills", "--kills", "3"])
    assert measured_parts[3:] == ["kills"]
    run_command("state", [*out, "--only", "lookup", "--restart"])
    assert measured_parts[4:] == ["lookup"]


def test_a_part_of_another_commit_or_of_changed_files_is_measured_again(
    measured_parts, tmp_path, monkeypatch
):
    arguments = ["--out", str(tmp_path), "--only", "lookup"]
    run_command("state", arguments)
    monkeypatch.setattr(parts, "current_commit", lambda out: f"{'0' * 40}-dirty")
    run_command("state", arguments)
    run_command("state", arguments)
    assert measured_parts == ["lookup"] * 3


def test_finished_parts_stay_in_the_report_after_an_interrupt(
    measured_parts, tmp_path, monkeypatch
):
    measure_part = run.measure_part

    def interrupted(name, options):
        if name == "kills":
            raise KeyboardInterrupt
        return measure_part(name, options)

    monkeypatch.setattr(run, "measure_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_command("state", ["--out", str(tmp_path), "--only", "lookup", "kills"])
    assert list(json.loads((tmp_path / "state.json").read_text())["parts"]) == ["lookup"]


def test_a_missed_bar_is_the_exit_status_and_is_on_the_page(measured_parts, tmp_path, capsys):
    assert run_command("state", ["--out", str(tmp_path)]) == MISSED
    payload = json.loads((tmp_path / "state.json").read_text())
    assert [row["part"] for row in payload["rows"]] == list(PARTS)
    assert {"what", "engine", "value", "unit", "low", "high"} <= set(payload["rows"][0])
    page = (tmp_path / "state.md").read_text()
    assert page.count("<= 3: kept") == len(PARTS) - 1
    assert page.count("<= 1: **missed**") == 1
    assert "1 bars were missed" in capsys.readouterr().err


def test_a_million_of_each_is_an_option_of_its_own(measured_parts, tmp_path):
    run_command("state", ["--out", str(tmp_path), "--only", "load", "--full"])
    chosen = json.loads((tmp_path / "state.json").read_text())["parts"]["load"]["options"]
    assert (chosen["users"], chosen["items"]) == (1_000_000, 1_000_000)


@pytest.mark.parametrize(
    "arguments", [["--kills", "0"], ["--users", "-1"], ["--only"], ["--engine"]]
)
def test_options_that_cannot_be_used_are_refused(arguments):
    with pytest.raises((UsageError, SystemExit)):
        parse("state", arguments)


def test_a_report_without_git_is_of_an_unknown_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    commit = parts.current_commit(tmp_path / "out")
    assert commit == "unknown"
    assert not parts.is_repeatable(commit)


def test_every_part_names_the_options_that_it_depends_on():
    assert tuple(OPTIONS) == PARTS


REPORTS = ROOT / "docs" / "reports"


@pytest.mark.skipif(not (REPORTS / "state.json").exists(), reason="the report was not made yet")
def test_the_committed_page_is_that_of_the_committed_figures():
    report = report_in(REPORTS)
    assert (REPORTS / "state.md").read_text("utf-8") == report.render(report.read())
