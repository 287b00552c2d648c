"""The nightly jobs of a loop: the decision about the canary, and the retraining."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.loop.feedback import WAIT
from loadtest.loop.first_model import RUN, write_items
from loadtest.loop.kills import RETRAINING, STAGES, UNMEASURED_S, StageKill
from loadtest.loop.plan import Base, Scale, training_config, write_config
from loadtest.loop.served import Served
from loadtest.loop.steps import KILLED, run_step
from model.study.known_world import KnownWorld

PART = "1d"
SLOWDOWN = 3.0  # several arms share the cores, so times of lists vary
# A canary is promoted after a day unless it is certainly worse: the gates have already shown that
# it is not worse on the latest lists, and appeal drifts while an experiment waits.
RULES = """reward: {types: [click], effect: 0.1}
guards: {degraded: {rise: 0.2}}
window_h: 6
settle_h: 3
least_users: 30
risk: 0.05
longest_days: 0.75
at_the_end: promote
"""


@dataclass
class Learner:
    """The jobs of one arm.

    Args:
        stages: seconds of the stages of the first model's training, as far as they were measured.
        notes: what each job did, in order, as JSON; kills: of retrainings, likewise.
    """

    directory: Path
    first: Path
    base: Base
    scale: Scale
    seed: int
    world: KnownWorld
    draw: np.random.Generator
    stages: Mapping[str, float]
    notes: list[dict[str, Any]] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = training_config(self.base, self.scale, self.seed, again=True)
        self._config = write_config(self.directory / "again.yaml", config)
        self._quantile = config["reasoning"]["entropy_quantile"]
        self._rules, self._log = self.directory / "rules.yaml", self.directory / "log"
        self._rules.write_text(RULES, "utf-8")
        self._kills_left = self.scale.kills if self.scale.faults else 0
        self._killed_stages = self.draw.permutation(len(STAGES)).tolist()
        self._seconds = {**self.stages}
        if "train" in self._seconds:
            self._seconds["train"] *= self.scale.again

    @property
    def serving(self) -> Path:
        """The file that names the served versions."""
        return self.directory / "models" / "world" / "serving.json"

    def decide(self, served: Served, day: int, now: int) -> None:
        """Look at the experiment that is under way, and carry the decision out.

        Raises LoadTestError.
        """
        version = self._canary()
        if version is None:
            return
        words: list[object] = [
            "model", "experiment", "--journal", self.directory / "journal",
            "--models", self.directory / "models", "--rules", self._rules, "--until", iso(now),
            "--apply", "--out", self.directory / "experiments" / version,
        ]  # fmt: skip
        served.change_versions(lambda: run_step(self._log, *words), self.serving)
        path = self.directory / "experiments" / version / "experiment.json"
        figures = json.loads(path.read_text("utf-8"))
        self.notes.append(
            {
                "day": day, "job": "experiment", "version": version,
                "outcome": figures["decision"]["action"],
                "difference": figures["metrics"]["reward"]["difference"],
            }
        )  # fmt: skip

    def retrain(self, served: Served, day: int, now: int) -> None:
        """Retrain on all days so far, unless a canary is under way. Raises LoadTestError.

        The first runs are killed once each, in another stage each, and started again.
        """
        if self._canary() is not None:
            return
        items = self.directory / "items.parquet"
        write_items(items, self.world, day)
        words: list[object] = [
            "model", "retrain", "--journal", self.directory / "journal",
            "--models", self.directory / "models", "--schema", self.first / "schema.yaml",
            "--items", items, "--work", self.directory / "work", "--config", self._config,
            "--until", iso(now), "--wait", WAIT, "--part", PART, "--margin", self.scale.margin,
            "--slowdown", SLOWDOWN, "--promote", f"canary:{self.scale.share:g}",
            "--entropy-quantile", self._quantile,  # as of the first model
            "--checkpoint", self.first / RUN,
        ]  # fmt: skip
        # Another run would begin behind one that ended before its kill.
        if not self._kills_left or self._run_until_kill(served, words, day):
            self._run(served, words, None)
        outcome = self._outcome()
        self._seconds = outcome["seconds"]
        self.notes.append({"day": day, "job": "retraining", **outcome})

    def _run_until_kill(self, served: Served, words: list[object], day: int) -> bool:
        """Kill a run at a random moment of a stage; return false if the run ended before.

        The stage lasts about as long as it did in an earlier run.
        """
        stage = STAGES[self._killed_stages[0]]
        delay_s = self.draw.uniform(0.0, self._seconds.get(stage, UNMEASURED_S))
        kill = StageKill(self.directory / "work", stage, delay_s)
        if self._run(served, words, kill) != KILLED:
            return False
        self._kills_left -= 1
        self._killed_stages.pop(0)
        self.kills.append({"part": RETRAINING, "day": day, "stage": kill.under_way})
        return True

    def _run(self, served: Served, words: list[object], kill: StageKill | None) -> int:
        kill_when = None if kill is None else kill.is_due
        return served.change_versions(
            lambda: run_step(self._log, *words, accepted=(0, 1), kill_when=kill_when), self.serving
        )

    def _canary(self) -> str | None:
        canary = json.loads(self.serving.read_text("utf-8")).get("canary")
        return None if canary is None else str(canary["version"])

    def _outcome(self) -> dict[str, Any]:
        """Return version, outcome and gates of the latest run."""
        records = (self.directory / "work").glob("*/run.json")
        record = json.loads(max(records, key=lambda path: int(path.parent.name)).read_text("utf-8"))
        gates = [gate for stage in record["stages"].values() for gate in stage.get("gates", ())]
        difference = [gate["figures"].get("difference") for gate in gates]
        return {
            "version": record["plan"]["version"], "outcome": record["outcome"],
            "failed": [gate["name"] for gate in gates if not gate["passed"]],
            "difference": next((each for each in difference if each), None),
            "seconds": {name: stage["seconds"] for name, stage in record["stages"].items()},
        }  # fmt: skip


def iso(moment: int) -> str:
    """Return a time in ms since 1970 UTC as ISO 8601."""
    return datetime.fromtimestamp(moment / 1e3, UTC).isoformat()
