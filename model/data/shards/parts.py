"""Deal the rows of a log into shards by a hash of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data.chunks import cells_per_row
from model.data.opened_log import OpenedLog
from model.data.scan import ROW, ROWS_PER_FRAME
from model.data.shards.exchange import TO, address
from model.data.shards.options import ROWS_PER_PART
from model.data.users import name_users
from service.engine.features.schema import Schema


@dataclass(frozen=True)
class DealtLog:
    """A log whose rows lie in shards, each with all rows of its users.

    parts    directories of the tasks that dealt the rows
    columns  types by name, ROW included; user_id is never null
    dropped  file with ROW of rows that break a rule, None if none does
    schema   of the features
    shards   their number
    cells    values of 8 bytes in a row
    """

    parts: tuple[Path, ...]
    columns: Mapping[str, Any]
    dropped: Path | None
    schema: Schema
    shards: int
    cells: int

    @property
    def timed(self) -> bool:
        """Return true if the log has times; else the order of rows stands for time."""
        return "timestamp" in self.columns

    def features(self, owner: str) -> list[str]:
        """Return the features of an owner that are columns of the log."""
        key = f"{owner}_id"
        named = [f.name for f in self.schema.features if f.of == owner and f.name != key]
        return [name for name in named if name in self.columns]

    def shard(self, number: int) -> pl.LazyFrame:
        """Return the rows of one shard, in no order."""
        return self._scan(f"{TO}={number}")

    def rows(self) -> pl.LazyFrame:
        """Return the rows of all shards, in no order."""
        return self._scan(f"{TO}=*")

    def _scan(self, pattern: str) -> pl.LazyFrame:
        files = [file for part in self.parts for file in sorted(part.glob(f"{pattern}/*.parquet"))]
        if not files:
            return pl.LazyFrame(schema=self.columns)
        rows = pl.scan_parquet(files, hive_partitioning=False)
        if self.dropped is None:
            return rows
        return rows.join(pl.scan_parquet(self.dropped), on=ROW, how="anti")


def parts_of(log: OpenedLog, scratch: Path) -> list[pl.LazyFrame]:
    """Return the good rows of a log with their values, in parts of about ROWS_PER_PART rows."""
    files = log.files
    if log.checks.report.broken:  # the good rows can only be told in all files together
        path = scratch / "good.parquet"
        log.read(log.good).sink_parquet(path)
        rows = int(pl.scan_parquet(path).select(pl.len()).collect().item())
        starts = range(0, rows, ROWS_PER_FRAME)
        return [pl.scan_parquet(path).slice(start, ROWS_PER_FRAME) for start in starts]
    groups: list[list[pl.LazyFrame]] = []
    room = 0
    for frame, rows in zip(files.frames, files.frame_rows, strict=True):
        if room < rows:
            groups.append([])
            room = ROWS_PER_PART
        groups[-1].append(log.read(frame))
        room -= rows
    return [pl.concat(frames) for frames in groups]


def deal(directory: Path, part: pl.LazyFrame, shards: int) -> None:
    """Write the rows of one part into a directory for each shard."""
    rows = name_users(part).with_columns(address("user_id", shards).alias(TO))
    rows.sink_parquet(pl.PartitionBy(directory, key=TO, include_key=False), mkdir=True)


def dealt_log(parts: Sequence[Path], log: OpenedLog, shards: int) -> DealtLog:
    """Return the log that parts were dealt into."""
    rows = name_users(log.read(log.good))
    columns = dict(rows.collect_schema())
    return DealtLog(tuple(parts), columns, None, log.schema, shards, cells_per_row(rows))
