"""The load test of the journal, in miniature."""

import json

import pytest

from loadtest.cli import run_command
from loadtest.errors import LoadTestError
from loadtest.journal import cost, kills
from loadtest.journal.kills import Answered, add_counts, requests_in
from loadtest.state.report import Measured
from service.journal.file_sink import FileLimits, FileSink
from service.journal.records import pack
from tests.support.journals import decision


def rows_of(measured):
    return {row["what"]: row for row in measured}


@pytest.mark.alone
def test_cost_and_kills_are_reported(tmp_path, monkeypatch):
    monkeypatch.setitem(cost.SETTINGS, "journal_flush_ms", 20.0)
    monkeypatch.setattr(cost, "SETTLE_S", 0.1)
    monkeypatch.setattr(cost, "MAX_CPU_MS", 100.0)  # of 4 lists, it says nothing
    monkeypatch.setattr(kills, "LATE_S", 0.3)
    out = tmp_path / "journal.json"
    sizes = ["--turns", "3", "--requests", "4", "--rate", "20", "--seconds", "0.2", "--kills", "1"]
    arguments = [*sizes, "--scratch", str(tmp_path / "scratch"), "--out", str(out)]
    assert run_command("journal", arguments) in (0, 1)  # p99 of so few lists may differ
    rows = json.loads(out.read_text())["rows"]
    for scenario in ("history", "inline"):
        costs = rows_of(row for row in rows if row["engine"] == scenario)
        assert costs["CPU of a list, journal off"]["value"] > 0
        assert costs["bytes of a list in the journal"]["value"] > 100
    counts = rows_of(row for row in rows if row["part"] == "kills")
    assert counts["kills of a worker under load"]["value"] == 1
    assert counts["answered lists lost otherwise"]["kept"]
    assert counts["records that are readable"]["value"] > 0
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("requests", "written", "missed"),
    [
        (["a", "b", "c"], 3, []),
        (["a", "b"], 2, []),  # the kill excuses c
        (["b", "c"], 2, ["answered lists lost otherwise"]),
        (["a", "b", "c", "c"], 4, ["records that are there more than once"]),
        (["a", "b", "c"], 4, ["records that metrics count and the files lack"]),
    ],
)
def test_a_record_that_is_lost_or_repeated_misses_a_bar(requests, written, missed):
    measured, answered = Measured(), Answered({"a": 10.0, "b": 20.0, "c": 30.0}, [30.5])
    add_counts(measured, requests, answered, written)
    assert [row["what"] for row in measured.rows if row["kept"] is False] == missed


def test_damage_to_a_journal_is_an_error(tmp_path):
    sink = FileSink(tmp_path, FileLimits(1e9, 1e9, 1e9))
    sink.write([pack(decision())])
    sink.close()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content) + whole)  # a frame behind it, so that it is no torn tail
    with pytest.raises(LoadTestError, match="python -m service journal verify"):
        requests_in(tmp_path)


def test_fewer_than_three_turns_are_refused(capsys):
    assert run_command("journal", ["--turns", "2"]) == 2
    assert "--turns: at least 3, got 2" in capsys.readouterr().err
