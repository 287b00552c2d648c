"""The load test of the journal, in miniature, and its report."""

import json

import pytest

from loadtest import parts
from loadtest.cli import run_command
from loadtest.errors import MISSED, PASSED, LoadTestError, UsageError
from loadtest.journal import cost, kills, outages, report
from loadtest.journal.command import PARTS
from loadtest.journal.kills import LATE_S, Lists, Tally, add_counts, requests_in, verified
from loadtest.journal.report import OPTIONS, report_in
from loadtest.measured import Bar, Measured
from loadtest.openloop import Sample
from loadtest.results import ROOT, Load, RateResult
from service.journal.file_sink import FileLimits, FileSink
from service.journal.records import pack
from tests.support.journals import decision

REPORTS = ROOT / "docs" / "reports"
LOST, REPEATED = "answered lists that are lost otherwise", "records that are there more than once"
LACKING = "records that metrics count and the files lack"


def rows_of(payload, part):
    return {row["what"]: row for row in payload["rows"] if row["part"] == part}


@pytest.mark.alone
def test_every_part_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(cost.SETTINGS, "journal_flush_ms", 20.0)
    monkeypatch.setattr(cost, "SETTLE_S", 0.1)
    monkeypatch.setattr(cost, "WARMUP_S", 0.1)
    monkeypatch.setattr(cost, "SCENARIOS", ("history",))
    monkeypatch.setattr(cost, "MAX_CPU_MS", 100.0)  # of 4 lists, it says nothing
    monkeypatch.setattr(kills, "WORKERS", 2)
    monkeypatch.setattr(kills, "CLIENTS", 4)
    monkeypatch.setattr(outages, "SINKS", {outages.FULL: outages.SINKS[outages.FULL]})
    monkeypatch.setitem(outages.SETTINGS, "journal_buffer_mb", 0.02)
    sizes = ["--turns", "3", "--requests", "4", "--rate", "60", "--seconds", "0.2", "--kills", "1",
             "--outage-seconds", "0.5"]  # fmt: skip
    places = ["--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path)]
    assert run_command("journal", [*sizes, *places]) in (PASSED, MISSED)  # p99 of few may differ
    payload = json.loads((tmp_path / "journal.json").read_text())
    costs, killed, full = (rows_of(payload, part) for part in PARTS)
    assert costs["CPU of a list, journal off"]["value"] > 0
    assert costs["bytes of a list in the journal"]["value"] > 100
    assert killed["kills of a worker under load"]["value"] == 1
    assert killed["records that are readable"]["value"] > 0
    assert full["lists that were sent"]["value"] > 10
    assert [row["what"] for row in (*killed.values(), *full.values()) if row["kept"] is False] == []
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("requests", "counted", "readable", "missed"),
    [
        (["a", "b"], [2], [2], []),
        (["a"], [1], [1], []),  # the kill excuses b
        (["a", "b"], [1, 0], [1, 1], []),  # durable, and killed before it counted
        (["b"], [1], [1], [LOST]),
        (["a", "b", "b"], [3], [3], [REPEATED]),
        (["a", "b"], [3], [2], [LACKING]),
        (["a", "b"], [0, 2], [1, 1], [LACKING]),  # one that the first kill left does not hide it
    ],
)
def test_a_record_that_is_lost_or_repeated_misses_a_bar(requests, counted, readable, missed):
    measured, lists = Measured(), Lists({"a"}, {"b": 0.01}, broken=1)
    add_counts(measured, lists, Tally(counted, readable, requests=requests))
    assert [row["what"] for row in measured.rows if row["kept"] is False] == missed


def test_kills_that_break_off_no_call_miss_a_bar():
    measured = Measured()
    add_counts(measured, Lists({"a"}), Tally([1], [1], requests=["a"]))
    (row,) = (row for row in measured.rows if row["kept"] is False)
    assert row["what"] == "calls that a kill broke off"


def test_a_kill_excuses_the_last_lists_of_its_worker_alone():
    lists = Lists(killed_at=10.0)
    lists.keep({"of another worker": 9.99})
    lists.break_off({"old": 9.9 - LATE_S, "late": 9.9}, ConnectionResetError())
    assert lists.required == {"of another worker", "old"}
    assert lists.late == {"late": pytest.approx(0.1)}
    assert lists.broken == 1


def test_a_connection_that_ends_without_a_kill_is_an_error():
    with pytest.raises(LoadTestError, match="before a kill: reset"):
        Lists().break_off({}, ConnectionResetError("reset"))


def write_segment(directory, change=lambda content: content):
    """Write a segment of one record, with its content changed."""
    sink = FileSink(directory, FileLimits(1e9, 1e9, 1e9))
    sink.write([pack(decision(request="r7"))])
    sink.close()
    (path,) = directory.iterdir()
    whole = path.read_bytes()
    path.write_bytes(change(whole))


def test_a_journal_is_counted_with_its_incomplete_frame(tmp_path):
    write_segment(tmp_path, lambda content: content + content[:-9])
    assert verified(tmp_path) == ("1", "1")
    assert requests_in(tmp_path) == ["r7"]


def test_damage_to_a_journal_is_an_error(tmp_path):
    def damaged(content):  # with a frame behind it, so that it is no torn tail
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :] + content

    write_segment(tmp_path, damaged)
    with pytest.raises(LoadTestError, match="python -m service journal verify"):
        verified(tmp_path)


def test_a_rate_that_is_too_high_without_a_journal_is_refused():
    ranked, late = Sample(0.0, 0.1, 200), Sample(0.0, 0.1, 200, degraded="timeout")
    outages.require_ranked(RateResult(Load(9, 1), [ranked] * 3, 0.1, 0.1))
    with pytest.raises(UsageError, match="--rate: 1 of 3 lists were not ranked"):
        outages.require_ranked(RateResult(Load(9, 1), [ranked, ranked, late], 0.1, 0.1))


@pytest.fixture
def measured_parts(monkeypatch):
    """Names of the parts that were measured, each with one row; `kills` fails once."""
    names: list[str] = []

    def measure_part(name, options):
        names.append(name)
        if names == ["cost", "kills"]:
            raise KeyboardInterrupt
        measured = Measured()
        measured.add("figure", "files", 2.0, "ms", Bar("<=", 1.0 if name == "outages" else 3.0))
        return measured

    monkeypatch.setattr(report, "measure_part", measure_part)
    monkeypatch.setattr(parts, "current_commit", lambda out: "0" * 40)
    return names


def test_an_interrupted_run_goes_on_with_the_part_that_it_lacks(measured_parts, tmp_path):
    out = ["--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        run_command("journal", out)
    assert "## Kills" not in (tmp_path / "journal.md").read_text()
    assert run_command("journal", [*out, "--only", "cost", "kills"]) == PASSED
    assert run_command("journal", out) == MISSED
    assert measured_parts == ["cost", "kills", "kills", "outages"]
    run_command("journal", [*out, "--only", "cost", "--turns", "5"])
    assert measured_parts[4:] == ["cost"]
    page = (tmp_path / "journal.md").read_text()
    assert (page.count("<= 3: kept"), page.count("<= 1: **missed**")) == (2, 1)


def test_every_part_names_the_options_that_it_depends_on():
    assert tuple(OPTIONS) == PARTS


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--turns", "2"], "--turns: at least 3, got 2"),
        (["--kills", "0"], "--kills: must be a number above 0, got 0"),
        (["--outage-seconds", "0"], "--outage-seconds: must be a number above 0, got 0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(capsys, arguments, rule):
    assert run_command("journal", arguments) == 2
    assert rule in capsys.readouterr().err


@pytest.mark.skipif(not (REPORTS / "journal.json").exists(), reason="the report was not made yet")
def test_the_committed_page_is_that_of_the_committed_figures():
    journal = report_in(REPORTS)
    assert (REPORTS / "journal.md").read_text("utf-8") == journal.render(journal.read())
