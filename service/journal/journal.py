"""The journal as a worker uses it: a bounded buffer, and a thread that writes it to the sink.

Adding a record never waits and never fails. If the sink is slow or down, records wait in the
buffer; if that is full, new ones are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from service.journal.errors import SinkError
from service.journal.opening import MIB, open_sink
from service.journal.records import ErasureRecord, Record, now_ms, pack
from service.journal.settings import JournalSettings
from service.journal.sink import Sink
from service.metrics import Metrics

logger = logging.getLogger("service")

FRAME_BYTES = 4 * MIB  # of records in one frame
RETRY_S = 1.0  # after a failed write, at least
REPORT_S = 60.0  # between two log lines about drops or a failing sink
CLOSE_S = 5.0  # that a shutdown waits for the last flush


@dataclass(frozen=True)
class BufferLimits:
    """Bytes of the buffer and those that are flushed early, and the seconds between flushes."""

    buffer_bytes: float
    flush_bytes: float
    flush_s: float


class Journal:
    """Takes records on the event loop of a worker, and keeps them in a sink."""

    def __init__(
        self,
        sink: Sink,
        limits: BufferLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink, self._limits, self._metrics, self._clock = sink, limits, metrics, clock
        self._token, self._numbers = secrets.token_hex(6), count()
        self._records: deque[bytes] = deque()
        # Each is written by one thread alone; their difference is what the buffer holds.
        self._added, self._released = 0, 0
        self._batch: list[bytes] = []  # taken out of the buffer, and not written yet
        self._wake, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._write_repeatedly, name="journal", daemon=True)
        self._reported_at, self._reported_drops, self._drops = -REPORT_S, 0, 0
        self._unpacked_at = -REPORT_S
        self._is_failing = False

    @classmethod
    def of(cls, settings: JournalSettings, metrics: Metrics) -> Journal | None:
        """Return the journal that the settings name, or None."""
        if settings.journal == "off":
            if settings.explore_share:
                logger.warning("RERANK_EXPLORE_SHARE explores, but no RERANK_JOURNAL records it")
            return None
        limits = BufferLimits(
            MIB * settings.journal_buffer_mb,
            1024.0 * settings.journal_flush_kb,
            settings.journal_flush_ms / 1e3,
        )
        return cls(open_sink(settings.journal, settings), limits, metrics)

    def start(self) -> None:
        """Start the writer's thread."""
        self._thread.start()

    async def close(self) -> None:
        """Flush and close the sink; what a dead sink has not kept after a while is dropped."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, CLOSE_S)
        if lost := len(self._records) + len(self._batch):
            self._metrics.journal_records["dropped"].inc(lost)
            logger.error("journal: %d records were not written before the shutdown", lost)

    def next_id(self) -> str:
        """Return the id of a record, unique over processes and restarts."""
        return f"{self._token}-{next(self._numbers):x}"

    def add(self, record: Record) -> None:
        """Add a record, or count it as dropped if the buffer is full. Call it on the event loop."""
        try:
            packed = pack(record)
        except (TypeError, ValueError) as error:
            self._drop()
            if self._clock() - self._unpacked_at >= REPORT_S:
                self._unpacked_at = self._clock()
                logger.error("journal: a record of kind %s was dropped: %s", record.kind, error)
            return
        held = self._added - self._released + len(packed)
        if held > self._limits.buffer_bytes:
            self._drop()
            return
        self._records.append(packed)
        self._added += len(packed)
        if held >= self._limits.flush_bytes and not self._wake.is_set():
            self._wake.set()

    def _drop(self) -> None:
        self._drops += 1
        self._metrics.journal_records["dropped"].inc()

    def erase(self, user: str) -> None:
        """Record that a user was deleted, for the next erasure."""
        self.add(ErasureRecord(self.next_id(), now_ms(), user))

    def _write_repeatedly(self) -> None:
        wait_s = self._limits.flush_s
        while not self._closing:
            self._wake.wait(wait_s)
            self._wake.clear()
            failed = not self._flush()
            wait_s = max(RETRY_S, self._limits.flush_s) if failed else self._limits.flush_s
            if failed and not self._closing:  # early flushes must not hammer a sink that is down
                time.sleep(min(RETRY_S, self._limits.flush_s))
            self._report()
        self._flush()
        try:
            self._sink.close()
        except SinkError as error:
            logger.error("journal: %s", error)

    def _flush(self) -> bool:
        """Write the buffer; return false if the sink failed."""
        try:
            while self._batch or self._records:
                if not self._batch:
                    self._batch = self._take()
                size = sum(map(len, self._batch))
                written = self._sink.write(self._batch)
                self._metrics.journal_records["written"].inc(len(self._batch))
                self._metrics.journal_bytes.inc(written)
                self._batch = []
                self._released += size
            self._sink.idle()
        except SinkError as error:
            self._fail(str(error))
        except Exception as error:  # the thread must go on, whatever a client library raises
            self._fail(repr(error))
        else:
            if self._is_failing:
                logger.info("journal: the sink works again")
                self._is_failing = False
            return True
        return False

    def _take(self) -> list[bytes]:
        """Return the next records of the buffer, as many as one frame may hold; at least one."""
        taken, size, records = [], 0, self._records
        while records and size < FRAME_BYTES:
            taken.append(records.popleft())
            size += len(taken[-1])
        return taken

    def _fail(self, reason: str) -> None:
        self._metrics.journal_errors.inc()
        now = self._clock()
        if not self._is_failing or now - self._reported_at >= REPORT_S:
            held = self._added - self._released
            logger.error("journal: %s; %d bytes wait to be written again", reason, held)
            self._reported_at = now
        self._is_failing = True

    def _report(self) -> None:
        """Log drops once a minute, and show the size of the buffer."""
        self._metrics.journal_buffer.set(self._added - self._released)
        now, drops = self._clock(), self._drops
        if drops > self._reported_drops and now - self._reported_at >= REPORT_S:
            logger.error(
                "journal: %d records were dropped since the last report; raise "
                "RERANK_JOURNAL_BUFFER_MB, or make the sink faster", drops - self._reported_drops,
            )  # fmt: skip
            self._reported_at, self._reported_drops = now, drops
