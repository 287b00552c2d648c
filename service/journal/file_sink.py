"""The journal in files: append-only segments, durable after each flush."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.journal.errors import SinkError
from service.journal.frames import FrameEncoder
from service.journal.segments import CLOSED, NEW, OPEN, ROLL, adopt, new_name, retain
from service.journal.segments import sync_directory as sync

ROLL_S = 3600.0  # a segment is closed at this age
RETENTION_S = 60.0  # between two looks at size and age of the directory


@dataclass(frozen=True)
class FileLimits:
    """Bytes of a segment, and bytes and seconds of closed segments that are kept."""

    segment_bytes: float
    keep_bytes: float
    keep_s: float


class FileSink:
    """Appends frames to the segment of this process; a new one begins at the first record."""

    def __init__(self, directory: Path, limits: FileLimits) -> None:
        self._directory, self._limits = directory, limits
        self._encoder = FrameEncoder()
        self._descriptor, self._path, self._size = -1, Path(), 0
        self._opened_ns, self._retained_at = 0, 0.0

    def write(self, records: Sequence[bytes]) -> int:
        frame = self._encoder.encode(records)
        try:
            if self._descriptor < 0:
                self._open()
            self._append(frame)
        except OSError as error:
            raise SinkError(f"{self._directory}: {error.strerror or error}") from error
        self._size += len(frame)
        if self._size >= self._limits.segment_bytes:
            self._close()
        return len(frame)

    def _append(self, frame: bytes) -> None:
        """Write a frame durably; after an OSError nothing of it is left."""
        try:
            rest = memoryview(frame)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fdatasync(self._descriptor)
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:  # the torn tail must stay at the end of its segment
                self._close()
            raise

    def _open(self) -> None:
        """Begin a segment. It has its final place once this process holds its lock."""
        directory = self._directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        adopt(directory)
        name = new_name().removesuffix(CLOSED)
        new, path = directory / f"{name}{NEW}", directory / f"{name}{OPEN}"
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(path)
            sync(directory)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._path, self._size = descriptor, path, 0
        # By the clock of files, which lags behind: it is compared with the time of ROLL.
        self._opened_ns = os.fstat(descriptor).st_mtime_ns

    def idle(self) -> None:
        try:
            if self._descriptor >= 0 and self._is_due():
                self._close()
            now = time.monotonic()
            if now - self._retained_at > RETENTION_S and self._directory.is_dir():
                self._retained_at = now
                retain(self._directory, self._limits.keep_bytes, self._limits.keep_s)
        except OSError as error:
            raise SinkError(f"{self._directory}: {error.strerror or error}") from error

    def _is_due(self) -> bool:
        """True if the segment is old or removed, or was begun before all were to be closed."""
        if time.time_ns() - self._opened_ns > 1e9 * ROLL_S or not self._path.exists():
            return True
        try:
            return os.stat(self._directory / ROLL).st_mtime_ns >= self._opened_ns
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        """Close the segment under its final name, or delete it if it is empty."""
        descriptor, self._descriptor = self._descriptor, -1
        try:
            if not self._path.exists():  # removed by someone else
                return
            if self._size:
                self._path.rename(self._path.with_name(self._path.name.removesuffix(".open")))
            else:
                self._path.unlink()
            sync(self._directory)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            try:
                self._close()
            except OSError as error:
                raise SinkError(f"{self._directory}: {error.strerror or error}") from error
