"""The destination of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Sink(Protocol):
    """Keeps packed records; belongs to the writer's thread."""

    def write(self, records: Sequence[bytes]) -> int:
        """Keep records durably, all or none, and return the bytes written.

        Raises SinkError if they were not kept; the same records may be written again.
        """

    def idle(self) -> None:
        """Do what is due between flushes. Raises SinkError."""

    def close(self) -> None:
        """Release the sink. Raises SinkError."""
