"""The parts of a response that explain its choices, field by field."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Alternative(BaseModel):
    """A candidate that could have been chosen, and its probability."""

    id: str | int
    probability: float


class StateChoice(BaseModel):
    """One of the most probable candidates of a state of reasoning."""

    id: str | int
    probability: float
    logprob: float
    weight: float | None = Field(
        description="share of the candidate in the reasoning token that the next step reads; null "
        "if no step follows"
    )


class ReasoningState(BaseModel):
    """The choice for one position before any reasoning step, or after one."""

    entropy: float = Field(description="nats; a step follows if it exceeds the threshold")
    choice: str | int = Field(description="the candidate that would be chosen in this state")
    changed: bool = Field(description="the step to this state changed the choice")
    choices: list[StateChoice] = Field(
        description="up to five most probable candidates that were still allowed"
    )


class Explanation(BaseModel):
    """The model's figures behind the choice for one position."""

    probability: float | None = Field(description="probability of the choice, exp(logprob)")
    alternatives: list[Alternative] = Field(
        description="up to three most probable other candidates that were still allowed"
    )
    moved: int = Field(description="initial position less position: positive is up")
    boost: float | None = Field(
        description="nats that the request's `boost` added to the logit of the choice"
    )
    diversity: float | None = Field(description="nats that `diversity` added to it")
    instead_of: str | int | None = Field(
        description="the candidate that the model would have chosen here without both, if another"
    )
    steps: list[ReasoningState] | None = Field(
        None,
        description='only if `explain` is "steps": the state before any step and after each; null '
        "if the states could not be traced in time, and empty at a pinned position",
    )
