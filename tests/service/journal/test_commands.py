"""The command line of a journal: tail, verify, stats, erase."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.journal import erasure as erasure_module
from service.journal.address import parse_journal_address
from service.journal.commands import main
from service.journal.erasure import erase
from service.journal.errors import JournalAddressError, JournalError
from service.journal.file_sink import FileLimits, FileSink
from service.journal.records import ErasureRecord, Policy, StoredValues, pack
from service.journal.segments import maintenance, segments_in
from service.state.entities import Item
from tests.support.bundles import ROOT
from tests.support.journals import decision, event, ids_in

EACH = FileLimits(1, 1 << 40, 1e9)  # a segment for each write


@pytest.fixture
def sink(tmp_path):
    opened = FileSink(tmp_path, FileLimits(1 << 30, 1 << 40, 1e9))
    yield opened
    opened.close()


def write(directory, *records, limits=EACH):
    sink = FileSink(directory, limits)
    sink.write([pack(record) for record in records])
    sink.close()


def content_of(directory):
    """Return all records as text, as a search of the decoded files sees them."""
    return "".join(repr(frame) for segment in segments_in(directory) for frame in segment.read())


def test_tail_prints_the_last_records_as_json_and_can_choose(tmp_path, capsys):
    write(tmp_path, *(decision(number, request=f"r{number}") for number in range(5)))
    write(tmp_path, event(1, "u2"), decision(9, user="u2"))
    assert main(["tail", str(tmp_path), "--last", "3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"] for line in lines] == ["d4", "f1", "d9"]
    for options, expected in (
        (["--user", "u2"], ["f1", "d9"]),
        (["--kind", "event"], ["f1"]),
        (["--request-id", "r3"], ["d3"]),
        (["--last", "0"], ["d0", "d1", "d2", "d3", "d4", "f1", "d9"]),
    ):
        assert main(["tail", str(tmp_path), *options]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["record"] for line in lines] == expected


def test_tail_follows_a_journal_that_is_written(tmp_path, sink):
    write(tmp_path, decision(1), decision(2))
    sink.write([pack(decision(3))])
    command = [sys.executable, "-m", "service", "journal", "tail", str(tmp_path), "--follow"]
    with subprocess.Popen(
        [*command, "--last", "2"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline())["record"] for _ in range(2)]
        sink.write([pack(decision(4))])
        lines.append(json.loads(process.stdout.readline())["record"])
        sink.close()  # under another name from now on
        write(tmp_path, decision(5))
        lines.append(json.loads(process.stdout.readline())["record"])
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert lines == ["d2", "d3", "d4", "d5"]


def test_tail_prints_stored_items_by_name(tmp_path, capsys):
    blobs = [Item({"price": 2.5}).to_blob(), None]
    write(tmp_path, decision(store=StoredValues("hit", blobs=blobs)))
    assert main(["tail", f"files://{tmp_path}"]) == 0
    stored = json.loads(capsys.readouterr().out)["store"]
    assert [blob and blob["f"] for blob in stored["blobs"]] == [{"price": 2.5}, None]


def test_verify_accepts_a_torn_tail_and_reports_damage(tmp_path, capsys):
    write(tmp_path, decision(1), decision(2))
    sink = FileSink(tmp_path, FileLimits(1 << 30, 1 << 40, 1e9))
    sink.write([pack(decision(3))])
    sink.write([pack(decision(4))])
    sink.close()
    path = segments_in(tmp_path)[1].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert main(["verify", str(tmp_path)]) == 0
    assert "3 records in 2 segments, 1 torn tails of" in capsys.readouterr().out
    path.write_bytes(whole[:20] + b"x" + whole[21:])
    assert main(["verify", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "3 records in 2 segments, 0 torn tails of 0 bytes, 1 problems" in output.out
    assert "bytes from 0 on are no frame" in output.err


def test_verify_reports_records_of_another_version(tmp_path, capsys):
    write(tmp_path, decision(1), decision(2, version=7))
    assert main(["verify", str(tmp_path)]) == 1
    assert "version: must be 1, got 7" in capsys.readouterr().err


def test_stats_count_by_model_policy_variant_reason_and_type(tmp_path, capsys):
    explored = Policy("explore", 0.1, 0.2, 3, 3, 0.5, 1.0, 1.0, 4, 1, 0)
    write(tmp_path, decision(at=5), decision(policy=explored, variant="canary", at=9))
    write(tmp_path, decision(degraded=["deadline"]), event(), event(type="hide"))
    assert main(["stats", str(tmp_path)]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["records"] == {"decision": 3, "event": 2}
    assert stats["models"] == {"m/1": 3}
    assert stats["policies"] == {"greedy": 2, "explore": 1}
    assert stats["variants"] == {"active": 2, "canary": 1}
    assert stats["degraded"] == {"deadline": 1}
    assert stats["events"] == {"like": 1, "hide": 1}
    assert (stats["first"], stats["last"], stats["segments"]) == (5, 1000, 2)
    assert stats["bytes_per_record"] == pytest.approx(stats["bytes"] / 5, abs=0.1)


def erase_and_read(directory, *users):
    assert main(["erase", str(directory), *(("--user", *users) if users else ())]) == 0
    return ids_in(directory)


def test_an_erased_user_is_gone_from_every_file(tmp_path):
    write(tmp_path, decision(1, "alice", request="ra"), decision(2, "bob", request="rb"))
    write(tmp_path, event(3, "alice"), event(4, request="ra"), event(5, request="rb"))
    write(tmp_path, decision(6, "alice"))
    write(tmp_path, decision(7, None), event(8, "bob"))
    before = [segment.path.stat().st_mtime_ns for segment in segments_in(tmp_path)]
    assert "alice" in content_of(tmp_path)
    assert erase_and_read(tmp_path, "alice") == ["d2", "f5", "d7", "f8"]
    assert "alice" not in content_of(tmp_path)
    assert len(segments_in(tmp_path)) == 3  # one had nothing else
    after = [segment.path.stat().st_mtime_ns for segment in segments_in(tmp_path)]
    assert after == [before[0], before[1], before[3]]
    assert erase_and_read(tmp_path, "alice") == ["d2", "f5", "d7", "f8"]


def test_a_recorded_deletion_covers_what_came_before_it_and_goes_with_it(tmp_path):
    write(tmp_path, decision(1, "alice", at=10), event(2, "alice", at=20))
    write(tmp_path, ErasureRecord("x", 20, "alice"), decision(3, "alice", at=21))
    assert erase_and_read(tmp_path) == ["d3"]


def test_a_deletion_of_this_minute_is_applied_again_by_the_next_erasure(tmp_path):
    now = time.time_ns() // 1_000_000
    write(tmp_path, decision(1, "alice", at=now - 9), ErasureRecord("x", now, "alice"))
    assert erase_and_read(tmp_path) == ["x"]
    write(tmp_path, decision(2, "alice", at=now - 5))  # that a worker still held
    assert erase_and_read(tmp_path) == ["x"]
    assert main(["erase", str(tmp_path), "--settle-s", "0"]) == 0
    assert ids_in(tmp_path) == []


def test_records_of_a_running_writer_are_erased_once_it_closes_its_file(tmp_path, sink, capsys):
    sink.write([pack(decision(1, "alice")), pack(decision(2))])
    assert main(["erase", str(tmp_path), "--user", "alice", "--wait-s", "0.1"]) == 1
    assert "1 files were not closed in 0.1 s" in capsys.readouterr().err
    assert ids_in(tmp_path) == ["d1", "d2"]
    sink.idle()
    assert erase_and_read(tmp_path, "alice") == ["d2"]


def test_an_erasure_that_dies_leaves_each_file_as_it_was_or_will_be(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path, decision(number, "alice"), decision(10 + number))
    replaced: list[Path] = []

    def die(path, frames):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(path)
        original(path, frames)

    original = erasure_module._replace
    monkeypatch.setattr(erasure_module, "_replace", die)
    with pytest.raises(KeyboardInterrupt):
        erase(tmp_path, ["alice"], 1.0)
    assert ids_in(tmp_path) == ["d10", "d1", "d11", "d2", "d12"]
    monkeypatch.undo()
    (tmp_path / "left.journal.zst.tmp").touch()
    assert erase_and_read(tmp_path, "alice") == ["d10", "d11", "d12"]
    assert list(tmp_path.glob("*.tmp")) == []


def test_two_erasures_do_not_run_at_once(tmp_path):
    write(tmp_path, decision(1))
    with maintenance(tmp_path), pytest.raises(JournalError, match="another process rewrites it"):
        erase(tmp_path, ["u1"], 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats"], "no journal: set RERANK_JOURNAL, or name its directory"),
        (["stats", "nowhere"], "nowhere"),
        (["stats", "redis://:s3cret@h/0"], "redis://h:6379/0: these commands read files"),
    ],
)
def test_a_command_without_a_journal_says_so_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("RERANK_JOURNAL", raising=False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("journal: ")
    assert message in error
    assert error.count("\n") == 1
    assert "s3cret" not in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("files://relative/path", "must name a directory from the root"),
        ("files:///", "must name a directory from the root"),
        ("kafka://h:9092", "must name brokers and a topic"),
        ("kafka://u:s3cret@h/t", "must name brokers and a topic"),
        ("redis://:s3cret@h/name", "is a number, as in /0"),
        ("ftp://h", "must be files:///DIRECTORY"),
        ("/var/lib", "got a text without a scheme"),
    ],
)
def test_a_broken_address_is_refused_without_its_password(text, message):
    with pytest.raises(JournalAddressError, match=message) as refusal:
        parse_journal_address(text)
    assert "s3cret" not in str(refusal.value)


def test_addresses_show_no_password_and_no_option():
    address = parse_journal_address("kafka://a:1,b:2/topic?sasl.password=s3cret")
    assert str(address) == "kafka://a:1,b:2/topic"
    assert "s3cret" not in repr(address)
    assert str(parse_journal_address("redis://:s3cret@h/2?prefix=x")) == "redis://h:6379/2?prefix=x"
    assert str(parse_journal_address("files:///var/a%23b")) == "files:///var/a#b"
