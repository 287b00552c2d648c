"""The state of a join: the parts that are done, with their counts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.data.errors import DataError
from model.data.join.options import JoinOptions, Part

STATE, LOCK = "join.json", ".lock"
VERSION = 1


@dataclass
class State:
    """The parts that are done, the oldest first, each with start, end and counts."""

    options: dict[str, Any]
    parts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def end(self) -> int | None:
        """The time in ms up to which decisions are joined, None before the first part."""
        return self.parts[-1]["end"] if self.parts else None

    @classmethod
    def load(cls, directory: Path, options: JoinOptions) -> State:
        """Read the state of a directory. Raises DataError if it has other options."""
        path, fingerprint = directory / STATE, options.fingerprint()
        if not path.exists():
            return cls(fingerprint)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version, before, parts = content["version"], content["options"], content["parts"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(path, f"cannot be read ({error!r}); join into a new --out") from None
        if (version, before) != (VERSION, fingerprint):
            names = [name for name, value in fingerprint.items() if before.get(name) != value]
            rule = "was joined with other options; pass the same ones, or join into a new --out"
            raise DataError(path, f"{rule}: {', '.join(names) or 'version'}")
        return cls(fingerprint, parts)

    def add(self, directory: Path, part: Part, counts: Counter[str]) -> None:
        """Record that a part is done, durably. Raises OSError."""
        self.parts.append({"start": part.start, "end": part.end, "counts": dict(counts)})
        content = {"version": VERSION, "options": self.options, "parts": self.parts}
        scratch = directory / f"{STATE}.tmp"
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(directory / STATE)

    def counts(self) -> Counter[str]:
        """Return the counts of all parts together."""
        return sum((Counter(part["counts"]) for part in self.parts), Counter[str]())


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
