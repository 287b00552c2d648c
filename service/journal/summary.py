"""Count the records of a journal in files, and look for bytes that are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.journal.errors import RecordError
from service.journal.frames import Frame
from service.journal.records import DecisionRecord, EventRecord, record_of
from service.journal.segments import Segment


@dataclass
class Summary:
    """Counts of segments and records; times in ms since 1970 UTC.

    torn: segments with a torn tail. problems: one line for each damage that a kill cannot explain.
    """

    segments: int = 0
    open: int = 0
    bytes: int = 0
    torn: int = 0
    torn_bytes: int = 0
    records: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    first: int | None = None
    last: int | None = None
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return all counts, and the mean bytes of a record in the segments."""
        count = sum(self.records.values())
        return {
            "segments": self.segments, "open": self.open, "bytes": self.bytes,
            "bytes_per_record": round(self.bytes / count, 1) if count else None,
            "torn_tails": self.torn, "torn_bytes": self.torn_bytes,
            "records": dict(self.records), "models": dict(self.models),
            "variants": dict(self.variants), "policies": dict(self.policies),
            "degraded": dict(self.degraded), "events": dict(self.events),
            "first": self.first, "last": self.last, "problems": len(self.problems),
        }  # fmt: skip


def summarise(segments: Sequence[Segment]) -> Summary:
    """Read all records of segments. Raises OSError."""
    summary = Summary()
    for segment in segments:
        summary.segments += 1
        summary.open += segment.is_open
        summary.bytes += segment.path.stat().st_size
        for part in segment.read():
            if isinstance(part, Frame):
                for fields in part.records:
                    _count(summary, segment, part, fields)
            elif part.torn:
                summary.torn += 1
                summary.torn_bytes += part.end - part.start
            else:
                size = part.end - part.start
                summary.problems.append(
                    f"{segment.path}: {size} bytes from {part.start} on are no frame"
                )
    return summary


def _count(summary: Summary, segment: Segment, frame: Frame, fields: object) -> None:
    try:
        record = record_of(fields)
    except RecordError as error:
        summary.problems.append(f"{segment.path}: frame at {frame.start}: {error}")
        return
    summary.records[record.kind] += 1
    summary.first = record.at if summary.first is None else min(summary.first, record.at)
    summary.last = record.at if summary.last is None else max(summary.last, record.at)
    if isinstance(record, DecisionRecord):
        summary.models[f"{record.bundle.name}/{record.bundle.version}"] += 1
        summary.variants[record.variant] += 1
        summary.policies[record.policy.kind] += 1
        for reason in record.degraded:
            summary.degraded[reason] += 1
    elif isinstance(record, EventRecord):
        summary.events[record.type] += 1
