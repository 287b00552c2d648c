"""The output of the re-ranker: one decision per candidate list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.engine.rows import Row, Slate
from service.engine.steps import StepTrace
from service.ranking.intent import IntentEffect
from service.ranking.stored_user import StateUse

StepsMissing = Literal["not_ranked", "opening", "deadline", "overload", "model_error"]


# The classes below are built for every list. They are not frozen, because a frozen dataclass takes
# seven times as long to build.
@dataclass(slots=True)
class Timeline:
    """Ends of the stages that all lists of a call share, in seconds of time.monotonic().

    looked_up: end of the lookup in the entity store, None without a store.
    """

    received: float
    parsed: float
    featurised: float
    looked_up: float | None = None


@dataclass(slots=True)
class StageTimes:
    """Seconds per stage; the stages add up to the total.

    state: the lookup in the entity store, None without a store.
    """

    total: float
    parse: float
    features: float
    queue: float
    inference: float
    respond: float
    state: float | None = None

    def stages(self) -> tuple[float, float, float, float, float]:
        """Return the stages in the order of service.metrics.STAGES.

        The metric has no stage for a lookup, which counts as features there.
        """
        features = self.features if self.state is None else self.state + self.features
        return self.parse, features, self.queue, self.inference, self.respond


@dataclass(slots=True)
class Decision:
    """One ranked list, or its initial ranking where the list could not be ranked.

    Args:
        row: the row as requested.
        slate: None for the initial ranking.
        fallback: the candidate index of each position of the initial ranking, else empty.
        budget: steps per position that the run was granted.
        steps: steps taken, over all positions.
        unknown: number of candidates that neither item table nor entity store has.
        degraded: None, `reduced_budget`, or the code of the error behind the initial ranking.
        state: the part of the entity store, None if it was not asked.
        explored: the slate was sampled by the service.
        effect: of the row's intent, None without one.
        explain_steps: the request asks for the states of its slate.
        trace: these states, None without.
        steps_missing: the reason for a slate without the states that the request asks for.
        trace_s: seconds that the call waited for the states of its slates, after ranking.
    """

    request_id: str
    model: str
    version: str
    variant: str
    ids: Sequence[str]
    row: Row
    slate: Slate | None
    fallback: Sequence[int]
    budget: int
    steps: int
    unknown: int
    degraded: str | None
    timeline: Timeline
    queue_s: float
    inference_s: float
    effect: IntentEffect | None = None
    state: StateUse | None = None
    explored: bool = False
    explain_steps: bool = False
    trace: StepTrace | None = None
    steps_missing: StepsMissing | None = None
    trace_s: float = 0.0

    @property
    def reasons(self) -> list[str]:
        """All reasons for a degraded response, the gravest first; empty for none."""
        reasons = [] if self.degraded is None else [self.degraded]
        if self.state is not None and self.state.failed:
            reasons.insert(0 if self.degraded == "reduced_budget" else len(reasons), "state")
        return reasons

    @property
    def utility(self) -> float | None:
        """The evaluator's estimate of a sampled slate."""
        return None if self.slate is None else self.slate.utility

    def stage_times(self, now: float) -> StageTimes:
        """Return the time spent in each stage if the response is complete at `now`."""
        timeline = self.timeline
        total = now - timeline.received
        parse = timeline.parsed - timeline.received
        prepared = timeline.featurised - timeline.parsed
        respond = max(0.0, total - (parse + prepared + self.queue_s + self.inference_s))
        if timeline.looked_up is None:
            return StageTimes(total, parse, prepared, self.queue_s, self.inference_s, respond)
        state = timeline.looked_up - timeline.parsed
        return StageTimes(
            total, parse, prepared - state, self.queue_s, self.inference_s, respond, state
        )
