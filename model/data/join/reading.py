"""Read the records of a part into tables on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from model.data.errors import DataError
from model.data.join.checking import ServedBundle
from model.data.join.options import SKEW_MS, JoinOptions, Part
from model.data.join.records import Span, read_fields
from model.data.join.tables import (
    EVENT_TYPES,
    HISTORY_TYPES,
    Columns,
    Row,
    Served,
    candidate_columns,
    event_row,
    history_columns,
    list_row,
    list_types,
    row_types,
)
from service.journal.errors import RecordError
from service.journal.records import DecisionRecord, ErasureRecord, EventRecord, record_of

ROWS_AT_ONCE = 20_000  # of a table that are held in memory


class Table:
    """Writes rows to numbered Parquet files of a directory."""

    def __init__(self, directory: Path, types: Mapping[str, Any]) -> None:
        self.directory, self._types, self._files = directory, types, 0
        self._columns: dict[str, list[Any]] = {name: [] for name in types}
        self._height = 0
        directory.mkdir(parents=True)

    def add(self, row: Row) -> None:
        """Add a row, whose columns are those of the table."""
        for name, values in self._columns.items():
            values.append(row[name])
        self._grow(1)

    def extend(self, columns: Columns) -> None:
        """Add rows, column by column."""
        for name, values in self._columns.items():
            values.extend(columns[name])
        self._grow(len(columns["request_id"]))

    def _grow(self, rows: int) -> None:
        self._height += rows
        if self._height >= ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in memory; the first call writes a file in any case."""
        if self._height or not self._files:
            frame = pl.DataFrame(
                [_series(name, self._columns[name], dtype) for name, dtype in self._types.items()]
            )
            frame.write_parquet(self.directory / f"{self._files:06d}.parquet")
            self._files += 1
            self._columns = {name: [] for name in self._types}
            self._height = 0

    def scan(self) -> pl.LazyFrame:
        """Return all rows, in the order in which they were added."""
        self.flush()
        return pl.scan_parquet(self.directory / "*.parquet")


def _series(name: str, values: Sequence[Any], dtype: Any) -> pl.Series:
    """Return a column. Polars would build one of lists row by row, a hundred times as slowly."""
    if not isinstance(dtype, pl.List):
        return pl.Series(name, values, dtype)
    lengths = np.array([0 if value is None else len(value) for value in values], np.int64)
    entries = chain.from_iterable(value for value in values if value is not None)
    rows = pl.Series("row", np.repeat(np.arange(len(values)), lengths))
    lists = pl.DataFrame([rows, pl.Series(name, list(entries), dtype.inner)])
    lists = lists.group_by("row", maintain_order=True).agg(name)
    is_null = pl.Series("is_null", [value is None for value in values], pl.Boolean)
    every = pl.DataFrame([pl.Series("row", np.arange(len(values))), is_null])
    joined = every.join(lists, on="row", how="left", maintain_order="left")
    return joined.select(pl.when(~pl.col("is_null")).then(pl.col(name).fill_null([])))[name]


@dataclass
class PartTables:
    """The records of a part and of the waits around it.

    lists: decisions of the part; following: of the wait behind it, without rows. events: of the
    waits too, because a repetition may be in another part than the first event of its id.
    erased: last moment of each user whose deletion was recorded, ms. counts: records by reason.
    read: records of the part by segment.
    """

    lists: Table
    following: Table
    rows: Table
    histories: Table
    events: Table
    erased: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)

    @classmethod
    def in_directory(cls, scratch: Path, options: JoinOptions) -> PartTables:
        """Return empty tables below a directory."""
        lists, rows = list_types(options.schema), row_types(options.schema)
        return cls(
            Table(scratch / "lists", lists),
            Table(scratch / "following", lists),
            Table(scratch / "rows", rows),
            Table(scratch / "histories", HISTORY_TYPES),
            Table(scratch / "events", EVENT_TYPES),
        )


def read_part(
    spans: Sequence[Span],
    part: Part,
    options: JoinOptions,
    scratch: Path,
    bundle: ServedBundle | None = None,
) -> PartTables:
    """Write the records of a part and of the waits around it below an empty directory.

    Args:
        bundle: whose lists get the statistics that they were served with.

    Raises DataError if decisions of several models must be told apart.
    """
    tables = PartTables.in_directory(scratch, options)
    models: set[str] = set()
    start, end = part.start - options.wait - SKEW_MS, part.end + options.wait + SKEW_MS
    seen: set[str] = set()
    for segment, fields in read_fields(spans, start, end, part.name):
        at, kind = fields["at"], fields.get("kind")
        tables.read[segment] += part.start <= at < part.end
        if kind == "decision" and at < part.start:  # most of the wait before the part
            continue
        try:
            record = record_of(fields)
        except RecordError:
            tables.counts["records of another version"] += part.start <= at < part.end
            continue
        if isinstance(record, ErasureRecord):
            tables.erased[record.user] = max(record.at, tables.erased.get(record.user, 0))
        elif isinstance(record, EventRecord):
            tables.events.add(event_row(record))
        # A write whose acknowledgement was lost is repeated.
        elif record.record not in seen:
            seen.add(record.record)
            models.add(record.bundle.name)
            _add_decision(tables, record, part, options, bundle)
    if options.model is None and len(models) > 1:
        rule = "must name the model to join, because the journal has several"
        raise DataError(Path("--model"), rule, value=", ".join(sorted(models)))
    return tables


def _add_decision(
    tables: PartTables,
    record: DecisionRecord,
    part: Part,
    options: JoinOptions,
    bundle: ServedBundle | None,
) -> None:
    schema = options.schema
    reason: str | None = None
    if options.model is not None and record.bundle.name != options.model:
        reason = "of another model"
    if record.at >= part.end:
        tables.following.add(list_row(record, schema, reason or "later"))
        return
    served = Served()
    if reason is None:
        if bundle is not None and record.bundle.digest == bundle.digest:
            served = bundle.served(record)
        try:
            row, columns = list_row(record, schema, None), candidate_columns(record, schema, served)
        except ValueError:
            reason = "of another schema"
    if reason is not None:
        tables.lists.add(list_row(record, schema, reason))
        return
    tables.lists.add(row)
    tables.rows.extend(columns)
    tables.histories.extend(history_columns(record, served))
