"""Options of `python -m loadtest journal`, as in loadtest.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.errors import UsageError
from loadtest.validation import require_positive

Part = Literal["cost", "kills", "outages"]
PARTS: tuple[Part, ...] = ("cost", "kills", "outages")


@dataclass(frozen=True)
class Journal:
    """Measure the journal: what it costs a list, and what is lost when workers or sinks fail.

    Writes journal.{json,md} after each part. A part that was measured at the same commit with the
    same options is not measured again. Linux only.
    """

    only: tuple[Part, ...] = PARTS
    """Parts to measure."""
    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    turns: int = 20
    """Turns of a service without and one with a journal, for their cost; the first is a warm-up."""
    requests: int = 400
    """Requests of each turn of CPU time."""
    rate: float = 200.0
    """Requests per second of the turns of latency, and of outages."""
    seconds: float = 3.0
    """Seconds of each turn of latency."""
    kills: int = 50
    """Times that a worker is killed under load."""
    outage_seconds: float = 10.0
    """Seconds of each outage of a sink."""
    scratch: Path = Path("build/journalload")
    """Directory for journals, on the disk that they are measured on. They are deleted."""
    restart: bool = False
    """Measure again the parts that the report already has."""
    out: Path = Path("docs/reports")
    """Directory of the report."""

    def __post_init__(self) -> None:
        require_positive(
            requests=self.requests, rate=self.rate, seconds=self.seconds, kills=self.kills,
            outage_seconds=self.outage_seconds,
        )  # fmt: skip
        if self.turns < 3:
            raise UsageError(f"--turns: at least 3, got {self.turns}")
        if not self.only:
            raise UsageError("--only: needs at least one name, got none")

    def execute(self, command_line: str) -> int:
        """Measure the parts that the report lacks. 1: a bar was missed."""
        from loadtest.journal.report import measure_journal

        return measure_journal(self, command_line)
