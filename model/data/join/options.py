"""The options of a join, and the parts of the time in which it works."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.data.errors import DataError
from model.data.join.tables import taken_name
from model.data.schemas import load_schema
from service.engine.features.durations import to_ms
from service.engine.features.schema import Schema

SKEW_MS = 60_000  # between the clocks of the hosts that wrote the records


def part_name(start: int) -> str:
    """Return the name of the files of a part that begins at a time in ms since 1970 UTC."""
    return f"{datetime.fromtimestamp(start / 1e3, UTC):%Y%m%dT%H%M%SZ}"


@dataclass(frozen=True)
class Part:
    """The decisions from start to before end, in ms since 1970 UTC."""

    start: int
    end: int

    @property
    def name(self) -> str:
        """The name of the part's files; names are in the order of time."""
        return part_name(self.start)


@dataclass(frozen=True)
class JoinOptions:
    """Everything that decides the rows of a part.

    wait: ms after a list during which events about it count; width: of a part in ms; model: name
    of the bundles whose decisions count, None if the journal has one name alone.
    """

    schema: Schema
    wait: int
    width: int
    model: str | None = None

    @classmethod
    def read(cls, schema: Path, wait: str, part: str, model: str | None) -> JoinOptions:
        """Read the options of a command. Raises DataError."""
        options = cls(load_schema(schema), _duration("--wait", wait), _duration("--part", part))
        if taken := taken_name(options.schema):
            rule = "must not be a column that a join adds"
            raise DataError(schema, f"features.{taken}.name: {rule}", value=taken)
        settle = options.schema.passed_over.settle
        if options.wait < options.schema.passed_over.settle_ms:
            rule = f"must be at least passed_over.settle of the schema, {settle}"
            raise DataError(Path("--wait"), rule, value=wait)
        return cls(options.schema, options.wait, options.width, model)

    def fingerprint(self) -> dict[str, Any]:
        """Return the options as the state of a join keeps them."""
        return {
            "schema": schema_digest(self.schema),
            "wait_ms": self.wait,
            "part_ms": self.width,
            "model": self.model,
        }

    def parts(self, first: int, until: int) -> Iterator[Part]:
        """Yield the parts from the one of a moment on whose events can no longer change.

        until: moment in ms up to which the journal is complete.
        """
        start = first - first % self.width
        while start + self.width + self.wait + SKEW_MS <= until:
            yield Part(start, start + self.width)
            start += self.width


def schema_digest(schema: Schema) -> str:
    """Return the SHA-256 by which a join recognises its schema."""
    return hashlib.sha256(json.dumps(schema.to_dict(), sort_keys=True).encode()).hexdigest()


def _duration(option: str, text: str) -> int:
    try:
        return to_ms(text)
    except ValueError as error:
        raise DataError(Path(option), str(error)) from None


def read_until(text: str, option: str = "--until") -> int:
    """Return the time of an option in ms: of a number of ms or ISO 8601 text, UTC by default.

    Raises DataError.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        rule = "must be a time such as 2026-01-05T12:00 or ms since 1970 UTC"
        raise DataError(Path(option), rule, value=text) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e3)
