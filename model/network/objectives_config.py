"""The configuration of list objectives, and of the stage that learns from a search for them."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")
Fraction = Annotated[float, Field(ge=0, le=1)]
# Fields that only some kinds of terms have, with those kinds.
FIELDS_OF_KINDS = {
    "alpha": ("alpha_dcg",),
    "kernel": ("similarity",),
    "value": ("share",),
    "target": ("share",),
}


@dataclass(frozen=True, config=STRICT)
class TermConfig:
    """One term of an objective: a property of a slate by an attribute of its candidates.

    kind        alpha_dcg: expected alpha-DCG, in which a value that an expected like has covered
                gains less; coverage: expected share of the list's values that a like covers;
                similarity: mean similarity of two items; share: share of the items with a value
    by          feature whose values or vectors count
    """

    kind: Literal["alpha_dcg", "coverage", "similarity", "share"]
    by: str
    weight: float  # a negative weight, of a similarity for example, rewards slates with less of it
    alpha: Fraction = 0.5  # of alpha_dcg: share of a value's gain that a like takes from later ones
    kernel: Literal["cosine", "jaccard"] = "cosine"  # of similarity; jaccard needs values
    value: str | None = None  # of share, required
    target: Annotated[float, Field(gt=0, le=1)] = 1.0  # of share: a larger share gains no more

    @field_validator("weight")
    @classmethod
    def _check_weight(cls, weight: float) -> float:
        if not weight or not math.isfinite(weight):
            raise ValueError("must be a finite number other than 0")
        return weight

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        defaults = {"alpha": 0.5, "kernel": "cosine", "value": None, "target": 1.0}
        for name, kinds in FIELDS_OF_KINDS.items():
            value = getattr(self, name)
            if self.kind not in kinds and value != defaults[name]:
                raise ValueError(f"{name}: must be absent from {self.kind}, got {value!r}")
        if self.kind == "share" and self.value is None:
            raise ValueError("value: required by share, but missing")
        return self


@dataclass(frozen=True, config=STRICT)
class ObjectivesConfig:
    """The value of a slate: the evaluator's utility and weighted terms of the list."""

    utility: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0  # weight of the utility
    terms: tuple[TermConfig, ...] = ()

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.utility and not self.terms:
            raise ValueError("terms: must have at least one term where utility is 0, got none")
        return self


@dataclass(frozen=True, config=STRICT)
class SearchConfig:
    """The stage that imitates a search for slates of high objective; it needs `objectives`."""

    epochs: PositiveInt = 10
    batch: PositiveInt = 64  # requests per update
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    # "exhaustive" tries every slate and refuses lists with too many of them.
    teacher: Literal["greedy", "beam", "exhaustive"] = "greedy"
    width: PositiveInt = 4  # prefixes that a beam keeps
    # The target of a choice is the softmax of the candidates' gains over the largest one and a
    # temperature, which falls geometrically from the choice after the first reasoning step to the
    # choice after the last; the choice that puts an item has the last temperature.
    temperature: PositiveFloat = 0.05
    first_temperature: PositiveFloat = 0.4
    step_weight: Fraction = 0.0  # share of the loss of choices that a further step revised
    on_policy: Fraction = 0.5  # share of a batch whose prefixes are the generator's choices
    # "random" draws for each batch: no step, every step, or an entropy gate at a random quantile.
    gates: Literal["random", "configured"] = "random"
    followed_by_grpo: bool = False  # continue with GRPO, which the search replaces otherwise
