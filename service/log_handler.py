"""A log handler whose callers never wait: a thread of its own writes to standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque

BACKLOG_BYTES = 1 << 20  # of lines that wait for the thread; further lines are dropped
FLUSH_S = 1.0  # that a flush, as at the exit, waits at most


class LogHandler(logging.Handler):
    """Writes every record as one line, or drops it while the reader of a full pipe does not read.

    Dropped lines are counted, and a line says how many they were once there is room again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._descriptor: int | None = None
        # Without a standard error there is no stream, or one without a descriptor.
        with contextlib.suppress(AttributeError, OSError):
            self._descriptor = sys.stderr.fileno()
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0  # including the line that is being written
        self._dropped = self._reported = self._taken = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write_lines, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record."""
        try:
            line = self._line(record)
        except Exception:  # standard error, where logging reports it, may block
            with self._changed:
                self._dropped += 1
            return
        with self._changed:
            if self._waiting_bytes + len(line) > BACKLOG_BYTES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify_all()

    def take_dropped(self) -> int:
        """Return the number of lines dropped since the last call."""
        with self._changed:
            dropped, self._taken = self._dropped - self._taken, self._dropped
        return dropped

    def flush(self) -> None:
        """Wait until all lines are written, at most FLUSH_S."""
        deadline = time.monotonic() + FLUSH_S
        with self._changed:
            while self._waiting_bytes and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                line = self._lines.popleft()
                unreported = self._dropped - self._reported
            if unreported and self._write(self._line(report(unreported))):
                self._reported += unreported
            written = self._write(line)
            with self._changed:
                self._dropped += not written
                self._waiting_bytes -= len(line)
                self._changed.notify_all()

    def _write(self, line: bytes) -> bool:
        """Write one line, in one piece if possible, since workers share a pipe; True if written."""
        if self._descriptor is None:
            return False
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:  # the parent may have made the pipe non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:  # nobody reads any more, or the disk is full
                return False
        return True


def report(dropped: int) -> logging.LogRecord:
    """Return the record that says how many lines are missing."""
    text = "%d log lines were dropped, because standard error took no more"
    return logging.LogRecord("service", logging.WARNING, __file__, 0, text, (dropped,), None)


def handlers() -> list[LogHandler]:
    """Return the handlers of this kind that are in use."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LogHandler)]


def flush() -> None:
    """Wait until the logged lines are written, before something else writes to standard error."""
    for handler in handlers():
        handler.flush()


def take_dropped() -> int:
    """Return the number of lines dropped since the last call."""
    return sum(handler.take_dropped() for handler in handlers())
