"""Read the records of a time from a journal in files into tables on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model.data.errors import DataError
from model.data.join.options import SKEW_MS, JoinOptions, Part
from model.data.join.tables import (
    EVENT_TYPES,
    HISTORY_TYPES,
    Row,
    candidate_rows,
    event_row,
    history_rows,
    list_row,
    list_types,
    row_types,
)
from service.journal.errors import RecordError
from service.journal.frames import Frame
from service.journal.records import DecisionRecord, ErasureRecord, EventRecord, record_of
from service.journal.segments import Segment, segments_in

ROWS_AT_ONCE = 20_000  # of a table that are held in memory


@dataclass(frozen=True)
class Span:
    """A segment and the times of its records in ms: at the first, and at the last flush."""

    segment: Segment
    first: int
    last: int


class Table:
    """Writes rows to numbered Parquet files of a directory."""

    def __init__(self, directory: Path, types: Mapping[str, Any]) -> None:
        self.directory, self._types, self._rows, self._files = directory, types, list[Row](), 0
        directory.mkdir(parents=True)

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, whose columns are those of the table."""
        self._rows += rows
        if len(self._rows) >= ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in memory; the first call writes a file in any case."""
        if self._rows or not self._files:
            frame = pl.DataFrame(self._rows, schema=dict(self._types))
            frame.write_parquet(self.directory / f"{self._files:06d}.parquet")
            self._files += 1
            self._rows = []

    def scan(self) -> pl.LazyFrame:
        """Return all rows, in the order in which they were added."""
        self.flush()
        return pl.scan_parquet(self.directory / "*.parquet")


@dataclass
class PartTables:
    """The records of a part and of the waits around it.

    lists: decisions of the part; following: of the wait behind it, without rows. events: of the
    waits too, because a repetition may be in another part than the first event of its id.
    erased: last moment of each user whose deletion was recorded, ms. counts: records by reason.
    """

    lists: Table
    following: Table
    rows: Table
    histories: Table
    events: Table
    erased: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

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


def spans_of(journal: Path) -> list[Span]:
    """Return the segments of a journal that have a record, the oldest first.

    Raises DataError if the journal is no directory that can be read.
    """
    try:
        segments = segments_in(journal)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(Path("--journal"), "must be a directory", value=str(journal)) from None
    spans = []
    for segment in segments:
        try:
            last = round(segment.path.stat().st_mtime_ns / 1e6)
            first = next((fields["at"] for fields in _fields(segment) if "at" in fields), None)
        except FileNotFoundError:  # closed, rewritten or deleted meanwhile
            continue
        if first is not None:
            spans.append(Span(segment, first, last))
    return spans


def read_records(
    spans: Sequence[Span], start: int, end: int, counts: Counter[str], name: str
) -> Iterator[DecisionRecord | EventRecord | ErasureRecord]:
    """Yield the records from start to before end, in ms, in the order of the files.

    counts: gets the records that cannot be read. Raises OSError.
    """
    near = [s for s in spans if s.last + SKEW_MS >= start and s.first < end + SKEW_MS]
    for span in tqdm(near, desc=name, unit="segment", leave=False, disable=None):
        for fields in _fields(_current(span.segment)):
            if not start <= fields.get("at", -1) < end:
                continue
            try:
                yield record_of(fields)
            except RecordError:
                counts["records of another version"] += 1


def _current(segment: Segment) -> Segment:
    """Return a segment under its present name: a writer may have closed it meanwhile."""
    if segment.is_open and not segment.path.exists():
        return Segment(segment.path.with_name(segment.name), False)
    return segment


def _fields(segment: Segment) -> Iterator[Mapping[str, Any]]:
    for frame in segment.read():
        if isinstance(frame, Frame):
            yield from (record for record in frame.records if isinstance(record, dict))


def read_part(spans: Sequence[Span], part: Part, options: JoinOptions, scratch: Path) -> PartTables:
    """Write the records of a part and of the waits around it below an empty directory.

    Raises DataError if decisions of several models must be told apart.
    """
    tables = PartTables.in_directory(scratch, options)
    models: set[str] = set()
    start, end = part.start - options.wait - SKEW_MS, part.end + options.wait + SKEW_MS
    seen: set[str] = set()
    for record in read_records(spans, start, end, tables.counts, part.name):
        if isinstance(record, ErasureRecord):
            tables.erased[record.user] = max(record.at, tables.erased.get(record.user, 0))
        elif isinstance(record, EventRecord):
            tables.events.add([event_row(record)])
        # A write whose acknowledgement was lost is repeated.
        elif record.at < part.start or record.record in seen:
            continue
        else:
            seen.add(record.record)
            models.add(record.bundle.name)
            _add_decision(tables, record, part, options)
    if options.model is None and len(models) > 1:
        rule = "must name the model to join, because the journal has several"
        raise DataError(Path("--model"), rule, value=", ".join(sorted(models)))
    return tables


def _add_decision(
    tables: PartTables, record: DecisionRecord, part: Part, options: JoinOptions
) -> None:
    schema = options.schema
    reason: str | None = None
    if options.model is not None and record.bundle.name != options.model:
        reason = "of another model"
    if record.at >= part.end:
        tables.following.add([list_row(record, schema, reason or "later")])
        return
    rows: list[Row] = []
    if reason is None:
        try:
            row, rows = list_row(record, schema, None), candidate_rows(record, schema)
        except ValueError:
            reason = "of another schema"
    if reason is not None:
        row, rows = list_row(record, schema, reason), []
    tables.lists.add([row])
    if reason is None:
        tables.rows.add(rows)
        tables.histories.add(history_rows(record))
