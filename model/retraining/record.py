"""The record of a run: its plan, its finished stages and its outcome, in `run.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.retraining.errors import RetrainError
from model.retraining.plan import Plan

RECORD = "run.json"


@dataclass
class RunRecord:
    """One run in its directory.

    Args:
        stages: figures of each finished stage.
        outcome: shadow or canary if published; rejected, superseded or abandoned; None before the
            end.
    """

    directory: Path
    plan: Plan
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    outcome: str | None = None

    @classmethod
    def read(cls, directory: Path) -> RunRecord:
        """Read `run.json`. Raises RetrainError for anything that `write` did not write."""
        path = directory / RECORD
        try:
            payload = json.loads(path.read_text(encoding="utf-8"))
            plan = Plan(**payload["plan"])
            return cls(directory, plan, payload["stages"], payload["outcome"])
        except (ValueError, KeyError, TypeError) as error:
            raise RetrainError(f"{path}: not the record of a run ({error!r})") from None

    def write(self) -> None:
        """Replace `run.json` atomically, and durably before the next stage depends on it."""
        payload = {"plan": self.plan.to_json(), "stages": self.stages, "outcome": self.outcome}
        building = self.directory / f"{RECORD}.tmp"
        with building.open("w", encoding="utf-8") as file:
            json.dump(payload, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(building, self.directory / RECORD)

    def finish(self, stage: str, figures: dict[str, Any]) -> None:
        """Note that a stage is finished, with its figures."""
        self.stages[stage] = figures
        self.write()

    def close(self, outcome: str) -> None:
        """Note the outcome: the run is over."""
        self.outcome = outcome
        self.write()


def records_in(work: Path) -> Iterator[RunRecord]:
    """Yield the runs of a directory in no order, without one that was killed as it began."""
    for path in work.glob(f"*/{RECORD}"):
        if not path.parent.name.startswith("."):
            yield RunRecord.read(path.parent)
