"""The rule by which displayed items without an event count as passed over, as a schema has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.engine.features.durations import DURATION, is_duration, to_ms
from service.engine.features.schema_rules import SchemaError, refuse_unknown

RULES = ("all", "above", "stated")


@dataclass(frozen=True)
class PassedOver:
    """The items of a slate that count as passed over.

    rule    all: every item of the slate; above: those before the last position that the user acted
            on, so that each list ends with an action; stated: only those that an event states as
            displayed. A display that events state replaces `above` and `all`
    settle  time after a list at which its labels are settled, unless its user comes back earlier
    """

    rule: str = "all"
    settle: str = "30m"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            rule = f"must be one of {', '.join(RULES)}"
            raise SchemaError(f"passed_over.rule: {rule}, got {self.rule!r}")
        if not is_duration(self.settle):
            raise SchemaError(f"passed_over.settle: must be {DURATION}, got {self.settle!r}")

    @property
    def settle_ms(self) -> int:
        """Return `settle` in ms."""
        return to_ms(self.settle)

    @classmethod
    def from_dict(cls, payload: Any) -> PassedOver:
        """Build the rule from the entry `passed_over` of a schema. Raises SchemaError."""
        if payload is None:
            return DEFAULT
        refuse_unknown(payload, {"rule", "settle"}, "passed_over")
        return cls(**payload)


DEFAULT = PassedOver()  # of a schema that declares none
