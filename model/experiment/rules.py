"""The rules of an experiment, which a file states before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.experiment.errors import ExperimentError

Share = Annotated[float, Field(gt=0, lt=1)]


class Part(BaseModel):
    """A section of the file; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Reward(Part):
    """The metric that decides: the sum of labels of a list, averaged over the lists of a user."""

    types: tuple[str, ...] = ()  # of events that count; empty for all
    # Difference worth noticing, in reward of a list. Intervals are narrowest for one of this size.
    effect: float = Field(gt=0)
    promote_above: float = 0.0  # the canary is promoted if the interval lies above
    roll_back_below: float = 0.0  # it is rolled back if the interval lies below


class Guard(Part):
    """The canary is rolled back if the share of such lists certainly rises by more than this."""

    rise: Share


class SlowGuard(Guard):
    """A guard on lists that took longer than `above_ms`."""

    above_ms: float = Field(gt=0)


class Guards(Part):
    """Guard rails, each optional."""

    degraded: Guard | None = None
    slow: SlowGuard | None = None


class Rules(Part):
    """All rules.

    window_h: hours after the first list of a user within which the user's lists count; settle_h:
    hours after a list within which its feedback counts. A user is counted when both are over.
    least_users: of each variant, before anything is decided. risk: of one wrong interval at any
    time. longest_days: after them `at_the_end` is the decision.
    """

    reward: Reward
    guards: Guards = Guards()
    window_h: float = Field(default=24.0, gt=0)
    settle_h: float = Field(default=1.0, gt=0)
    least_users: int = Field(default=200, ge=30)
    risk: Share = 0.05
    longest_days: float = Field(default=14.0, gt=0)
    at_the_end: Literal["promote", "roll back", "wait"] = "roll back"

    @classmethod
    def read(cls, path: Path) -> Rules:
        """Read a file. Raises ExperimentError naming the field, the rule and the value."""
        try:
            payload = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ExperimentError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            entry = error.errors(include_url=False)[0]
            field = ".".join(map(str, entry["loc"])) or "rules"
            raise ExperimentError(
                f"{path}: {field}: {entry['msg']}, got {entry['input']!r}"
            ) from None

    @property
    def intervals(self) -> int:
        """Number of intervals that share the risk: reward, guards and the share of the users."""
        return 2 + (self.guards.degraded is not None) + (self.guards.slow is not None)
