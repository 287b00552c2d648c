"""The files of a journal: names, reading, adoption of what dead processes left, retention.

A directory holds segments. The one that a process writes ends in `.open` and is locked by it; a
closed one ends in `.journal.zst`. Names begin with the time, so their order is that of time.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.journal.frames import Frame, Gap, frames_in

CLOSED = ".journal.zst"
OPEN = f"{CLOSED}.open"
NEW = f"{CLOSED}.new"  # not locked yet
SCRATCH = f"{CLOSED}.tmp"  # of an erasure
ROLL = "roll"  # writers close the segments that are older than this file
LOCK = "maintenance.lock"  # held while closed segments are deleted or rewritten
ABANDONED_S = 60.0  # age of an empty file of NEW that no process will lock any more


@dataclass(frozen=True)
class Segment:
    """One file of a directory; is_open: a process writes it, or died while it did."""

    path: Path
    is_open: bool

    @property
    def name(self) -> str:
        """The name, the same before and after the segment is closed."""
        return self.path.name.removesuffix(".open")

    def read(self, start: int = 0) -> Iterator[Frame | Gap]:
        """Yield its frames and gaps from a byte on. Raises OSError."""
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size <= start:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield from frames_in(content, start)


def segments_in(directory: Path) -> list[Segment]:
    """Return the segments of a directory, the oldest first. Raises OSError."""
    names = os.listdir(directory)
    segments = [
        Segment(directory / name, name.endswith(OPEN))
        for name in names
        if name.endswith((CLOSED, OPEN))
    ]
    return sorted(segments, key=lambda segment: segment.name)


def new_name() -> str:
    """Return the name of a segment that begins now."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}{CLOSED}"


def sync_directory(directory: Path) -> None:
    """Make the names of a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def adopt(directory: Path) -> int:
    """Close the segments of processes that died, and return their number. Raises OSError."""
    adopted = 0
    for segment in segments_in(directory):
        if segment.is_open:
            with contextlib.suppress(FileNotFoundError), _locked(segment.path) as is_free:
                if is_free:
                    segment.path.rename(directory / segment.name)
                    adopted += 1
    for path in directory.glob(f"*{NEW}"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if not status.st_size and time.time() - status.st_mtime > ABANDONED_S:
                path.unlink()
    return adopted


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Yield true while this process has the lock of a file that no other process has."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def maintenance(directory: Path) -> Iterator[bool]:
    """Yield true if no other process deletes or rewrites closed segments meanwhile."""
    path = directory / LOCK
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    with _locked(path) as is_free:
        yield is_free


def retain(directory: Path, max_bytes: float, max_age_s: float) -> int:
    """Delete the oldest closed segments beyond a size or an age; return the number deleted.

    The age is that of the last record. Nothing is deleted during an erasure. Raises OSError.
    """
    deleted = 0
    with maintenance(directory) as is_free:
        if not is_free:
            return 0
        closed = [each.path for each in segments_in(directory) if not each.is_open]
        status = {path: path.stat() for path in closed}
        total, now = sum(each.st_size for each in status.values()), time.time()
        for path in closed:
            if total <= max_bytes and now - status[path].st_mtime <= max_age_s:
                continue
            path.unlink()
            total -= status[path].st_size
            deleted += 1
    return deleted
