"""Tables whose rows are addressed to numbered tasks, which each read their own."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

TO = "__to"  # number of the task that reads a row
LEAST_ROWS = 1024  # of a row group


def addresses(ids: pl.Series, count: int) -> pl.Series:
    """Return a number below `count` for each id, UInt32, by a hash that no version changes."""
    numbers = [zlib.crc32(text.encode()) % count for text in ids.to_list()]
    return pl.Series(TO, numbers, pl.UInt32)


def address(column: str, count: int) -> pl.Expr:
    """Return the expression of `addresses`."""
    return pl.col(column).map_batches(
        lambda ids: addresses(ids, count), return_dtype=pl.UInt32, is_elementwise=True
    )


def write_addressed(rows: pl.DataFrame, path: Path, count: int) -> None:
    """Write rows with TO, in row groups that hold the rows of few tasks.

    Args:
        count: number of tasks.
    """
    size = max(LEAST_ROWS, len(rows) // (2 * count))
    rows.sort(TO, maintain_order=True).write_parquet(path, row_group_size=size)


def read_addressed(paths: Sequence[Path], number: int) -> pl.LazyFrame:
    """Return the rows of one task; statistics of row groups let the scan skip those of others."""
    return pl.scan_parquet([*paths]).filter(pl.col(TO) == number).drop(TO)
