"""Read a log in chunks that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import polars as pl

ROWS_PER_CHUNK = 1 << 20
CELLS_PER_CHUNK = 1 << 25  # values of 8 bytes; a wide log has fewer rows in a chunk
SAMPLE = 1024  # rows by which the width of a log is estimated


def cells_per_row(log: pl.LazyFrame) -> int:
    """Return the values of 8 bytes that a row takes, at least one for each column."""
    head = log.head(SAMPLE).collect()
    size = head.estimated_size() / (8 * max(len(head), 1))
    return max(math.ceil(size), head.width, 1)


def rows_per_chunk(log: pl.LazyFrame) -> int:
    """Return the number of rows of a chunk, by the width of the log."""
    return max(1, min(ROWS_PER_CHUNK, CELLS_PER_CHUNK // cells_per_row(log)))


def equal_runs(column: pl.Series) -> list[tuple[int, int]]:
    """Return (start, stop) rows of each run of equal values, stop exclusive."""
    starts = column.ne_missing(column.shift()).arg_true().to_list()
    return list(pairwise([*starts, len(column)]))


def read_chunks(log: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Yield the log in order, about a chunk of rows at a time, each request in one chunk."""
    start, open_request = 0, log.head(0).collect()
    height = rows_per_chunk(log)
    while True:
        rows_read = log.slice(start, height).collect(engine="streaming")
        start += height
        chunk = pl.concat([open_request, rows_read])
        if len(rows_read) < height:
            yield chunk
            return
        cut, _ = equal_runs(chunk["request_id"])[
            -1
        ]  # the last request may continue in the next chunk
        open_request = chunk[cut:]
        yield chunk[:cut]
