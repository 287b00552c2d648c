"""Read a log in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import polars as pl

ROWS_AT_ONCE = 1 << 20  # of the log, in memory


def stretches(column: pl.Series) -> list[tuple[int, int]]:
    """First row, and row after the last, of each stretch of equal values."""
    starts = column.ne_missing(column.shift()).arg_true().to_list()
    return list(pairwise([*starts, len(column)]))


def whole_requests(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The log in its order, about ROWS_AT_ONCE rows at a time, no request cut in two."""
    start, held = 0, rows.head(0).collect()
    while True:
        read = rows.slice(start, ROWS_AT_ONCE).collect(engine="streaming")
        start += ROWS_AT_ONCE
        piece = pl.concat([held, read])
        if len(read) < ROWS_AT_ONCE:
            yield piece
            return
        cut, _ = stretches(piece["request_id"])[-1]  # the last request may go on
        held = piece[cut:]
        yield piece[:cut]
