"""Read the records of a time from a journal in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.data.errors import DataError
from model.data.join.options import SKEW_MS
from service.journal.errors import RecordError
from service.journal.frames import Frame
from service.journal.records import DecisionRecord, ErasureRecord, EventRecord, record_of
from service.journal.segments import Segment, segments_in


@dataclass(frozen=True)
class Span:
    """A segment, its size in bytes, and the times in ms of its first record and last flush."""

    segment: Segment
    size: int
    first: int
    last: int


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
            status = segment.path.stat()
            first = next(times_in(segment), None)
        except FileNotFoundError:  # closed, rewritten or deleted meanwhile
            continue
        if first is not None:
            last = round(status.st_mtime_ns / 1e6)
            spans.append(Span(segment, status.st_size, first, last))
    return spans


def first_moment(spans: Sequence[Span]) -> int:
    """Return the time in ms of the earliest record of some segments, at least one.

    Records of a segment are only about in the order of time.
    """
    first = min(span.first for span in spans)
    near = [span.segment for span in spans if span.first <= first + SKEW_MS]
    return min(min(times_in(segment), default=first) for segment in near)


def read_records(
    spans: Sequence[Span], start: int, end: int, counts: Counter[str], name: str
) -> Iterator[DecisionRecord | EventRecord | ErasureRecord]:
    """Yield the records from start to before end, in ms, in the order of the files.

    counts: gets the records that cannot be read. Raises OSError.
    """
    for _, fields in read_fields(spans, start, end, name):
        try:
            yield record_of(fields)
        except RecordError:
            counts["records of another version"] += 1


def read_fields(
    spans: Sequence[Span], start: int, end: int, name: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the segment's name and the map of each record from start to before end, in ms."""
    near = [s for s in spans if s.last + SKEW_MS >= start and s.first < end + SKEW_MS]
    for span in tqdm(near, desc=name, unit="segment", leave=False, disable=None):
        for fields in _fields(_current(span.segment)):
            if start <= fields.get("at", -1) < end:
                yield span.segment.name, fields


def times_in(segment: Segment) -> Iterator[int]:
    """Yield the time in ms of each record of a segment."""
    return (fields["at"] for fields in _fields(_current(segment)) if "at" in fields)


def _current(segment: Segment) -> Segment:
    """Return a segment under its present name: a writer may have closed it meanwhile."""
    if segment.is_open and not segment.path.exists():
        return Segment(segment.path.with_name(segment.name), False)
    return segment


def _fields(segment: Segment) -> Iterator[Mapping[str, Any]]:
    for frame in segment.read():
        if isinstance(frame, Frame):
            yield from (record for record in frame.records if isinstance(record, dict))
