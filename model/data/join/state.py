"""The state of a join: the parts that are done, with their counts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.data.errors import DataError
from model.data.join.options import SKEW_MS, JoinOptions, Part, schema_digest
from model.data.join.records import Span, times_in
from service.engine.features.schema import Schema
from service.journal.segments import sync_directory

STATE, LOCK = "join.json", ".lock"
VERSION = 1


@dataclass
class State:
    """The parts that are done, the oldest first, each with start, end and counts.

    segments: by name, the size of each segment of the journal in bytes when it was opened, and the
    number of its records in the parts. late: records that were flushed after their part was joined.
    """

    options: dict[str, Any]
    parts: list[dict[str, Any]] = field(default_factory=list)
    segments: dict[str, tuple[int, int]] = field(default_factory=dict)
    late: int = 0

    @property
    def end(self) -> int | None:
        """The time in ms up to which decisions are joined, None before the first part."""
        return self.parts[-1]["end"] if self.parts else None

    @classmethod
    def load(cls, directory: Path, options: JoinOptions) -> State:
        """Read the state of a directory. Raises DataError if it has other options."""
        path, fingerprint = directory / STATE, options.fingerprint()
        state = cls.read(directory)
        if state is None:
            return cls(fingerprint)
        if state.options != fingerprint:
            names = [n for n, value in fingerprint.items() if state.options.get(n) != value]
            rule = "was joined with other options; pass the same ones, or join into a new --out"
            raise DataError(path, f"{rule}: {', '.join(names)}")
        return state

    @classmethod
    def read(cls, directory: Path) -> State | None:
        """Read the state of a directory, None if nothing was joined there. Raises DataError."""
        path = directory / STATE
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version, before, parts = content["version"], content["options"], content["parts"]
            segments = {name: (size, read) for name, (size, read) in content["segments"].items()}
            state = cls(dict(before), parts, segments, content["late"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(path, f"cannot be read ({error!r}); join into a new --out") from None
        if version != VERSION:
            raise DataError(
                path, f"must have version {VERSION}; join into a new --out", value=version
            )
        return state

    def add(
        self,
        directory: Path,
        part: Part,
        counts: Counter[str],
        read: Mapping[str, int],
        spans: Sequence[Span],
    ) -> None:
        """Record that a part is done, durably. Raises OSError.

        Args:
            read: number of records of the part, by segment.
            spans: segments of the journal.
        """
        self.parts.append({"start": part.start, "end": part.end, "counts": dict(counts)})
        for span in spans:
            name = span.segment.name
            _, before = self.segments.get(name, (0, 0))
            self.segments[name] = span.size, before + read.get(name, 0)
        self.save(directory)

    def count_late(self, directory: Path, spans: Sequence[Span]) -> None:
        """Count the records of finished parts that were flushed since, each once, durably.

        Only segments that are new or have grown are read. Raises OSError.
        """
        end = self.end
        if end is None:
            return
        names = {span.segment.name for span in spans}
        self.segments = {name: facts for name, facts in self.segments.items() if name in names}
        for span in spans:
            size, read = self.segments.get(span.segment.name, (0, 0))
            if span.size == size:
                continue
            # The records of a segment are in the order of time, but for the clocks' difference.
            may_be_late = span.first < end + SKEW_MS
            records = sum(time < end for time in times_in(span.segment)) if may_be_late else 0
            self.late += max(0, records - read)
            self.segments[span.segment.name] = span.size, records
        self.save(directory)

    def save(self, directory: Path) -> None:
        """Write the state durably. Raises OSError."""
        content = {
            "version": VERSION, "options": self.options, "parts": self.parts, "late": self.late,
            "segments": dict(sorted(self.segments.items())),
        }  # fmt: skip
        scratch = directory / f"{STATE}.tmp"
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(directory / STATE)
        sync_directory(directory)

    def counts(self) -> Counter[str]:
        """Return the counts of all parts together."""
        parts = sum((Counter(part["counts"]) for part in self.parts), Counter[str]())
        return parts + Counter({"records: flushed after their part": self.late})


def check_schema(directory: Path, schema: Schema) -> None:
    """Raise DataError unless a directory was joined with this schema."""
    path = directory / STATE
    try:
        options = json.loads(path.read_text(encoding="utf-8"))["options"]
        is_same = options["schema"] == schema_digest(schema)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error!r})") from None
    if not is_same:
        raise DataError(path, "was joined with another schema; pass the same one, or join again")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, which is made. Raises DataError if another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(directory, "another join writes it; wait for its end") from None
        yield
