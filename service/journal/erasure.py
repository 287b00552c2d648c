"""Erase users from a journal in files: rewrite the segments that have records of them.

A user's records are their decisions, the feedback on these decisions and their other feedback. A
recorded erasure (ErasureRecord) covers what came before it and goes with it; an erasure by name
covers everything.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ormsgpack

from service.journal.errors import JournalError
from service.journal.frames import Frame, FrameEncoder, Gap
from service.journal.records import now_ms
from service.journal.segments import (
    ROLL,
    SCRATCH,
    Segment,
    adopt,
    maintenance,
    segments_in,
    sync_directory,
)

POLL_S = 0.05
SETTLE_S = 60.0


@dataclass
class Erased:
    """Counts of an erasure; still_open: segments that running processes did not close in time."""

    users: int = 0
    records: int = 0
    segments: int = 0
    still_open: int = 0


@dataclass
class Targets:
    """The records to remove.

    until: the last moment of each user to erase, ms; settled: recorded erasures after this moment
    stay, because workers may still hold older records; requests: ids of requests of the users'
    decisions, with the last moment of each.
    """

    until: dict[str, float]
    settled: float = math.inf
    requests: dict[str, float] = field(default_factory=dict)

    def observe(self, record: Mapping[str, Any]) -> None:
        """Remember the request of a decision that will be removed."""
        if record.get("kind") == "decision" and self._is_of_user(record):
            request = str(record["request_id"])
            until = self.until[record["user"]]
            self.requests[request] = max(until, self.requests.get(request, until))

    def covers(self, record: Mapping[str, Any]) -> bool:
        """Tell if a record is to be removed."""
        kind = record.get("kind")
        if kind == "erasure":
            return bool(record["at"] <= self.settled)
        if self._is_of_user(record):
            return True
        if kind != "event" or record.get("user") is not None:
            return False
        return bool(record["at"] <= self.requests.get(record.get("request_id", ""), -math.inf))

    def _is_of_user(self, record: Mapping[str, Any]) -> bool:
        return bool(record.get("at", 0) <= self.until.get(record.get("user") or "", -math.inf))


def close_open_segments(directory: Path, wait_s: float) -> int:
    """Have running processes close their segments; return how many are still open in the end."""
    roll = directory / ROLL
    roll.touch(mode=0o600)
    names = {each.name for each in segments_in(directory) if each.is_open}
    ends = time.monotonic() + wait_s
    while True:
        adopt(directory)
        still = [each for each in segments_in(directory) if each.is_open and each.name in names]
        if not still or time.monotonic() >= ends:
            return len(still)
        time.sleep(POLL_S)


def erase(
    directory: Path, users: Sequence[str], wait_s: float, settle_s: float = SETTLE_S
) -> Erased:
    """Erase users, and those whose deletion the journal recorded.

    Killed at any moment, it leaves each segment as it was or as it will be.

    Args:
        users: ids of which every record is removed.
        wait_s: seconds to wait for running processes to close their segments.
        settle_s: seconds after which workers have flushed what they held when a user was deleted.

    Raises:
        JournalError: another process deletes or rewrites segments.
        OSError: the directory cannot be read or written.
    """
    erased = Erased(still_open=close_open_segments(directory, wait_s))
    with maintenance(directory) as is_free:
        if not is_free:
            raise JournalError(f"{directory}: another process rewrites it; try again later")
        for scratch in directory.glob(f"*{SCRATCH}"):
            scratch.unlink()
        segments = [each for each in segments_in(directory) if not each.is_open]
        targets = Targets(dict.fromkeys(users, math.inf), now_ms() - 1e3 * settle_s)
        for record in _records(segments):
            if record.get("kind") == "erasure":
                until = targets.until.get(record["user"], -math.inf)
                targets.until[record["user"]] = max(until, record["at"])
        for record in _records(segments):
            targets.observe(record)
        erased.users = len(targets.until)
        for segment in segments:
            removed = _rewrite(segment, targets) if targets.until else 0
            erased.records += removed
            erased.segments += removed > 0
    return erased


def _records(segments: Sequence[Segment]) -> Iterator[Mapping[str, Any]]:
    for segment in segments:
        for frame in segment.read():
            if isinstance(frame, Frame):
                yield from (record for record in frame.records if isinstance(record, dict))


def _rewrite(segment: Segment, targets: Targets) -> int:
    """Rewrite a segment without the records to remove, and return their number.

    Unreadable bytes are kept out of the new segment: nobody can tell whose they are.
    """
    encoder, kept, removed = FrameEncoder(), [], 0
    for frame in segment.read():
        if isinstance(frame, Gap):
            continue
        rest = [r for r in frame.records if not (isinstance(r, dict) and targets.covers(r))]
        removed += len(frame.records) - len(rest)
        if rest:
            kept.append(encoder.encode([ormsgpack.packb(record) for record in rest]))
    if removed:
        _replace(segment.path, kept)
    return removed


def _replace(path: Path, frames: Sequence[bytes]) -> None:
    """Replace a segment atomically, with the times of the old one; delete it if nothing is left."""
    if not frames:
        path.unlink()
        sync_directory(path.parent)
        return
    status, scratch = path.stat(), path.with_name(f"{path.name}{SCRATCH}")
    descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.writelines(frames)
            file.flush()
            os.fsync(descriptor)
        os.utime(scratch, ns=(status.st_atime_ns, status.st_mtime_ns))
        scratch.rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        raise
    sync_directory(path.parent)
