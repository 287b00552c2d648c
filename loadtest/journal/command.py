"""Options of `python -m loadtest journal`, as in loadtest.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import UsageError
from loadtest.validation import require_not_negative, require_positive


@dataclass(frozen=True)
class Journal:
    """Measure what the journal costs a list, and kill workers while they write it.

    A service without and one with a journal in files take turns. Linux only.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    turns: int = 20
    """Turns of each service; the first is a warm-up."""
    requests: int = 400
    """Requests of each turn of CPU time."""
    rate: float = 200.0
    """Requests per second of the turns of latency."""
    seconds: float = 3.0
    """Seconds of each turn of latency."""
    kills: int = 50
    """Times that one of two workers is killed under load; 0 leaves this out."""
    scratch: Path = Path("build/journalload")
    """Directory for journals, on the disk that they are measured on. They are deleted."""
    out: Path = Path("docs/reports/journal.json")
    """File for the report."""

    def __post_init__(self) -> None:
        require_positive(requests=self.requests, rate=self.rate, seconds=self.seconds)
        require_not_negative(kills=self.kills)
        if self.turns < 3:
            raise UsageError(f"--turns: at least 3, got {self.turns}")

    def execute(self, command_line: str) -> int:
        """Measure and write. 1: a bar was missed."""
        from loadtest.journal.report import measure_journal

        return measure_journal(self, command_line)
