"""Marks of changes that were made, in an LMDB database of their own, kept for a window of time.

A key is the start of a period in seconds since 1970 UTC (uint32, big-endian) and the mark; a period
is half a window. Marks of periods that ended before the window are deleted a few at a time, with
the writes that add new ones, so that no transaction is long.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from typing import Any

START = struct.Struct(">I")
LAST_START = (1 << 32) - 1
SPARE_DELETIONS = 100  # of each write, with two for each mark that it adds


class Marks:
    """The marks of one environment."""

    def __init__(self, environment: Any, window_s: float) -> None:
        """Open the database, or create it. Raises lmdb.Error."""
        self._environment = environment
        self._database = environment.open_db(b"marks")
        self._period_s = max(1, math.ceil(window_s / 2))

    def add(self, transaction: Any, marks: Collection[bytes], now: int) -> set[bytes]:
        """Add marks within a transaction, and return those that were kept already.

        Args:
            transaction: of lmdb, for writing.
            marks: of the changes that the transaction makes.
            now: time in ms since 1970 UTC.
        """
        present, first = self._starts(now)
        starts = self._kept_starts(transaction, first)
        kept = set()
        for mark in marks:
            if any(transaction.get(s + mark, db=self._database) is not None for s in starts):
                kept.add(mark)
            else:
                transaction.put(present + mark, b"", db=self._database)
        self._delete(transaction, first, SPARE_DELETIONS + 2 * len(marks))
        return kept

    def _starts(self, now: int) -> tuple[bytes, bytes]:
        """Return the start of the present period, and of the first one that counts."""
        seconds = now // 1000
        present = seconds - seconds % self._period_s
        first = max(0, present - 2 * self._period_s)
        return START.pack(min(present, LAST_START)), START.pack(min(first, LAST_START))

    def _kept_starts(self, transaction: Any, first: bytes) -> list[bytes]:
        """Return the starts that marks have; others than the present law's after a new setting."""
        starts: list[bytes] = []
        cursor = transaction.cursor(self._database)
        after = first
        while cursor.set_range(after):
            start = bytes(cursor.key()[: START.size])
            starts.append(start)
            if start == START.pack(LAST_START):
                break
            after = START.pack(START.unpack(start)[0] + 1)
        return starts

    def _delete(self, transaction: Any, until: bytes, limit: int) -> None:
        """Delete the oldest marks of periods before one."""
        cursor = transaction.cursor(self._database)
        if not cursor.first():
            return
        for _ in range(limit):
            if cursor.key()[: START.size] >= until or not cursor.delete():
                return

    def copy_to(self, other: Marks, now: int) -> None:
        """Copy the marks that count into the database of another environment."""
        _, first = self._starts(now)
        with (
            self._environment.begin() as source,
            other._environment.begin(write=True) as target,
        ):
            cursor = source.cursor(self._database)
            if cursor.set_range(first):
                entries = ((bytes(key), b"") for key in cursor.iternext(values=False))
                target.cursor(other._database).putmulti(entries)
