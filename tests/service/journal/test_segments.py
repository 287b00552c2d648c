"""Segments: frames, torn tails, damage, rolling, adoption, retention, full disks."""

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import time

import pytest

from service.journal import segments as segments_module
from service.journal.errors import SinkError
from service.journal.file_sink import FileLimits, FileSink
from service.journal.frames import Frame, FrameEncoder, Gap, frames_in
from service.journal.records import pack
from service.journal.segments import ROLL, adopt, maintenance, retain, segments_in
from tests.support.bundles import ROOT
from tests.support.journals import decision, ids_in

MANY = FileLimits(1 << 20, 1 << 30, 1e9)


def batch(first, count=3):
    return [pack(decision(number)) for number in range(first, first + count)]


def ids(first, count=3):
    return [f"d{number}" for number in range(first, first + count)]


@pytest.fixture
def sink(tmp_path):
    opened = FileSink(tmp_path / "journal", MANY)
    yield opened
    opened.close()


@pytest.fixture
def content():
    """Two frames of three records."""
    encoder = FrameEncoder()
    return encoder.encode(batch(0)), encoder.encode(batch(3))


def test_records_are_readable_as_soon_as_a_write_returns(sink, tmp_path):
    sink.write(batch(0))
    sink.write(batch(3))
    assert ids_in(tmp_path / "journal") == ids(0, 6)
    (segment,) = segments_in(tmp_path / "journal")
    assert segment.is_open
    sink.close()
    (closed,) = segments_in(tmp_path / "journal")
    assert (closed.is_open, closed.name) == (False, segment.name)
    assert ids_in(tmp_path / "journal") == ids(0, 6)


def test_files_are_readable_by_their_owner_alone(sink, tmp_path):
    sink.write(batch(0))
    directory = tmp_path / "journal"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_a_frame_cut_anywhere_costs_only_itself(content):
    first, second = content
    for length in range(len(second)):
        parts = list(frames_in(first + second[:length]))
        assert isinstance(parts[0], Frame)
        assert len(parts[0].records) == 3
        torn = [Gap(len(first), len(first) + length, True)] if length else []
        assert parts[1:] == torn


def test_a_changed_byte_costs_its_frame_and_no_other(content):
    first, second = content
    for place in range(0, len(first), 7):
        changed = bytearray(first)
        changed[place] ^= 0x10
        *gaps, frame = frames_in(bytes(changed) + second)
        if not isinstance(gaps[0], Frame):  # the header has bits without a meaning
            assert gaps == [Gap(0, len(first), False)]
        assert isinstance(frame, Frame)
        assert [record["record"] for record in frame.records] == ids(3)


def test_a_segment_rolls_at_its_size(tmp_path):
    sink = FileSink(tmp_path, FileLimits(1, 1 << 30, 1e9))
    for first in (0, 3, 6):
        sink.write(batch(first))
    assert [segment.is_open for segment in segments_in(tmp_path)] == [False] * 3
    assert ids_in(tmp_path) == ids(0, 9)


def test_a_request_to_roll_closes_the_segment_once(sink, tmp_path):
    directory = tmp_path / "journal"
    sink.write(batch(0))
    sink.idle()
    assert segments_in(directory)[0].is_open
    time.sleep(0.01)
    (directory / ROLL).touch()
    sink.idle()
    assert not segments_in(directory)[0].is_open
    time.sleep(0.01)
    sink.write(batch(3))
    sink.idle()
    assert [segment.is_open for segment in segments_in(directory)] == [False, True]


def test_the_segment_of_a_dead_process_is_adopted_and_that_of_a_live_one_is_not(sink, tmp_path):
    code = (
        "import os, sys; from pathlib import Path;"
        "from service.journal.file_sink import FileLimits, FileSink;"
        "sink = FileSink(Path(sys.argv[1]), FileLimits(1e9, 1e9, 1e9));"
        "sink.write([b'\\x80']); os.kill(os.getpid(), 9)"
    )
    directory = tmp_path / "journal"
    sink.write(batch(0))
    subprocess.run([sys.executable, "-c", code, str(directory)], cwd=ROOT, check=False)
    assert [segment.is_open for segment in segments_in(directory)] == [True, True]
    assert adopt(directory) == 1
    assert [segment.is_open for segment in segments_in(directory)] == [True, False]
    assert adopt(directory) == 0


def test_retention_deletes_the_oldest_closed_segments_by_size_and_by_age(tmp_path):
    sink = FileSink(tmp_path, FileLimits(1, 1 << 30, 1e9))
    for first in (0, 3, 6, 9):
        sink.write(batch(first))
    sizes = [segment.path.stat().st_size for segment in segments_in(tmp_path)]
    assert retain(tmp_path, sum(sizes), 1e9) == 0
    assert retain(tmp_path, sum(sizes[1:]), 1e9) == 1
    assert ids_in(tmp_path) == ids(3, 9)
    oldest = segments_in(tmp_path)[0].path
    os.utime(oldest, (time.time() - 100, time.time() - 100))
    assert retain(tmp_path, 1e9, 99) == 1
    assert ids_in(tmp_path) == ids(6, 6)


def test_nothing_is_deleted_while_segments_are_rewritten(tmp_path):
    sink = FileSink(tmp_path, FileLimits(1, 1 << 30, 1e9))
    sink.write(batch(0))
    with maintenance(tmp_path) as is_free:
        assert is_free
        assert retain(tmp_path, 0, 0) == 0
    assert retain(tmp_path, 0, 0) == 1


@contextlib.contextmanager
def file_size_limit(size):
    """Let no file of this process grow beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_does_not_fit_leaves_nothing_and_succeeds_later(sink, tmp_path):
    sink.write(batch(0))
    (segment,) = segments_in(tmp_path / "journal")
    size = segment.path.stat().st_size
    with file_size_limit(size + 20), pytest.raises(SinkError, match="File too large"):
        sink.write(batch(3))
    assert segment.path.stat().st_size == size
    sink.write(batch(3))
    assert ids_in(tmp_path / "journal") == ids(0, 6)
    assert all(isinstance(part, Frame) for part in segment.read())


def test_a_segment_that_cannot_be_cut_back_is_closed_with_its_torn_tail(
    sink, tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    sink.write(batch(0))
    (segment,) = segments_in(tmp_path / "journal")
    size = segment.path.stat().st_size
    monkeypatch.setattr(os, "ftruncate", refuse)
    with file_size_limit(size + 20), pytest.raises(SinkError):
        sink.write(batch(3))
    monkeypatch.undo()
    sink.write(batch(6))
    first, second = segments_in(tmp_path / "journal")
    assert (first.is_open, second.is_open) == (False, True)
    assert list(first.read())[1] == Gap(size, size + 20, True)
    assert ids_in(tmp_path / "journal") == ids(0) + ids(6)


def test_a_removed_directory_is_made_again(sink, tmp_path):
    sink.write(batch(0))
    shutil.rmtree(tmp_path / "journal")
    sink.idle()
    sink.write(batch(3))
    assert ids_in(tmp_path / "journal") == ids(3)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"file/journal: Not a directory"):
        FileSink(tmp_path / "file" / "journal", MANY).write(batch(0))


def test_an_empty_file_that_was_never_locked_is_removed_when_it_is_old(tmp_path):
    (tmp_path / f"x{segments_module.NEW}").touch()
    adopt(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    os.utime(tmp_path / f"x{segments_module.NEW}", (0, 0))
    adopt(tmp_path)
    assert list(tmp_path.iterdir()) == []
