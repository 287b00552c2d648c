"""Read a log in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import polars as pl

ROWS_PER_CHUNK = 1 << 20


def equal_runs(column: pl.Series) -> list[tuple[int, int]]:
    """Return (start, stop) rows of each run of equal values, stop exclusive."""
    starts = column.ne_missing(column.shift()).arg_true().to_list()
    return list(pairwise([*starts, len(column)]))


def read_chunks(log: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Yield the log in order, about ROWS_PER_CHUNK rows at a time, each request in one chunk."""
    start, open_request = 0, log.head(0).collect()
    while True:
        rows_read = log.slice(start, ROWS_PER_CHUNK).collect(engine="streaming")
        start += ROWS_PER_CHUNK
        chunk = pl.concat([open_request, rows_read])
        if len(rows_read) < ROWS_PER_CHUNK:
            yield chunk
            return
        cut, _ = equal_runs(chunk["request_id"])[
            -1
        ]  # the last request may continue in the next chunk
        open_request = chunk[cut:]
        yield chunk[:cut]
