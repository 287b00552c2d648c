"""The size of a run, the arms of a seed, and the hours of a day."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from loadtest.loop.command import ArmName, Loop
from loadtest.results import ROOT
from model.study.known_world import KnownWorld, Size

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
MORNING_H = 6.1  # hour of the night's jobs, when the feedback on the day before is complete
DAYS_BEFORE = 5  # days of random slates from which the first model learns
FIRST_RETRAINING = 2  # day of the first retraining, on the lists of the days before
CONFIG = ROOT / "model" / "configs" / "loop.yaml"
STAGES = ("evaluator", "warm_start", "grpo")
Kind = Literal["best", "frozen", "state", "loop"]


@dataclass(frozen=True)
class Base:
    """A first model: its host, and if it reasons."""

    host: str = "pointer"
    reasons: bool = True

    @property
    def slug(self) -> str:
        """The name of its directory."""
        return f"{self.host}{'' if self.reasons else '-plain'}"


BASE = Base()


@dataclass(frozen=True)
class Arm:
    """A way to serve the lists of a seed."""

    kind: Kind
    base: Base = BASE


ARMS: dict[ArmName, Arm] = {
    "best": Arm("best"),
    "frozen": Arm("frozen"),
    "state": Arm("state"),
    "loop": Arm("loop"),
    "loop plain": Arm("loop", Base(reasons=False)),
    "loop transformer": Arm("loop", Base("transformer")),
    "loop transformer plain": Arm("loop", Base("transformer", reasons=False)),
}
SMOKE_ARMS: tuple[ArmName, ...] = ("best", "frozen", "state", "loop")


@dataclass(frozen=True)
class Scale:
    """The size of a run and the rules of its loop.

    share: of the users that a canary gets; explore: share of users whose slates are sampled;
    margin: of the gate of validation; epochs: multiple of those of the configuration; again: of
    these, the multiple in a retraining; kills: retrainings that are killed once.
    """

    size: Size = field(default_factory=Size)
    days: int = 8
    share: float = 0.3
    explore: float = 0.1
    margin: float = 0.1
    epochs: float = 1.0
    again: float = 0.5
    faults: bool = True
    kills: int = 2


def scale_of(options: Loop) -> Scale:
    """Return the size of a run."""
    if options.smoke:
        size = Size(users=150, items=60, arrivals=6, lists=720, rounds=12)
        return Scale(size, 4, 0.5, 0.2, 0.3, 1.0, 0.3, options.faults, kills=1)
    return Scale(days=options.days, faults=options.faults)


def seeds_of(options: Loop) -> int:
    """Return the number of seeds of a run."""
    return 1 if options.smoke else options.seeds


def arms_of(options: Loop) -> tuple[ArmName, ...]:
    """Return the arms of a run."""
    return tuple(a for a in options.arms if not options.smoke or a in SMOKE_ARMS)


def world_of(seed: int, scale: Scale) -> KnownWorld:
    """Return the world of a seed."""
    return KnownWorld(seed, scale.size, scale.days)


def training_config(base: Base, scale: Scale, seed: int, again: bool) -> dict[str, Any]:
    """Return the training configuration of a base, or of its retraining."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text("utf-8"))
    config["seed"] = seed
    config["network"]["host"] = base.host
    if not base.reasons:
        config["reasoning"]["budget"] = 0
    factor = scale.epochs * (scale.again if again else 1.0)
    for stage in STAGES:
        config[stage]["epochs"] = max(1, round(factor * config[stage]["epochs"]))
    return config


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """Write a configuration as YAML and return its path."""
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def hour_of(number: int, size: Size) -> float:
    """Return the hour of the day at which a round of lists is served."""
    return 24.0 * (number + 0.5) / size.rounds


def hour(day: int, hours: float) -> int:
    """Return the ms from the beginning of day 0 to an hour of a day."""
    return day * DAY_MS + round(hours * HOUR_MS)
