"""Rank candidate lists: choose a deployment, check, featurise, batch, and fall back on failure."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.batching.batcher import RowResult
from service.batching.deadlines import Deadlines
from service.batching.queue import PRIORITIES
from service.engine.constraints import ConstraintError
from service.engine.contract import Manifest
from service.engine.features.encoding import FeatureError
from service.engine.features.ids import as_sent
from service.engine.rows import Row
from service.errors import (
    DeadlineExceeded,
    FieldError,
    InferenceFailed,
    InvalidRequest,
    Overloaded,
    ServiceError,
)
from service.models.deployment import Deployment
from service.models.fleet import Fleet
from service.ranking.constraints import check_limits, resolve_constraints
from service.ranking.decision import Decision, Timeline
from service.ranking.exploration import Exploration, Explorer
from service.ranking.intent import effect_of, resolve_intent
from service.ranking.request import RankingRequest
from service.ranking.shadow import ShadowRanker
from service.ranking.step_tracing import StepTracing
from service.ranking.stored_user import StateUse, with_stored, without
from service.settings import Settings

logger = logging.getLogger("service")

NOT_SUBMITTED = ServiceError("the list was not submitted to a batcher")
Pending = asyncio.Future[RowResult] | ServiceError


@dataclass(slots=True)  # not frozen, as in service.ranking.request
class PreparedList:
    """One checked and featurised list, and the deployment that will rank it.

    shed is set for a list that was refused before it was featurised; unknown counts the candidates
    that neither item table nor entity store has; state is the part of the entity store, if asked.
    exploration is the draw, None for a list that was shed or if nothing is explored.
    """

    request: RankingRequest
    row: Row
    deployment: Deployment
    variant: str
    shed: Overloaded | None
    unknown: int
    state: StateUse | None = None
    exploration: Exploration | None = None


class Reranker:
    """Ranks checked requests. It knows neither HTTP nor JSON and observes no metrics."""

    def __init__(
        self, settings: Settings, fleet: Fleet, on_shadow: Callable[[Manifest, str], None]
    ) -> None:
        """on_shadow is called with the shadow's manifest and the outcome of each comparison."""
        self._fail_calls = settings.on_failure == "error"
        self._live_counters = settings.state_counters
        self._deadlines = Deadlines()
        self._fleet = fleet
        self._explorer = Explorer.of(settings)
        self._shadows = ShadowRanker(fleet, settings.timeout_ms / 1e3, on_shadow)
        self._max_traces = settings.max_traces
        self._step_tracing = StepTracing(settings.max_traces)

    def close(self) -> None:
        """Stop the thread that traces steps."""
        self._step_tracing.close()

    def prepare(self, request: RankingRequest) -> PreparedList:
        """Check a request against its bundle and featurise it. Raises InvalidRequest.

        If the queue would make a list miss its deadline, and the list is cheap to shed, it is shed
        here, before it is featurised. The batcher sheds other lists when they are submitted.
        """
        inputs = request.inputs
        deployment, variant = self._fleet.choose(request.model, inputs.user_id, request.path)
        check_limits(request, deployment.manifest)
        if request.explain_steps and not self._max_traces:
            rule = "true or false: RERANK_MAX_TRACES=0 refuses steps"
            raise InvalidRequest.of(FieldError(request.field("explain"), rule, "steps"))
        shed = None
        if request.cheap_to_shed and deployment.batcher.would_be_late(
            len(inputs.ids), request.deadline, PRIORITIES[request.priority],
            request.budget, request.sampling,
        ):  # fmt: skip
            shed = Overloaded("the queue is too long for the deadline of this list")
        state = None
        if request.lookup is not None:
            schema = deployment.session.featuriser.schema
            request.inputs, state = with_stored(
                inputs, request.lookup, request.has_history, schema, self._live_counters
            )
        try:
            row, state = make_row(request, deployment, shed is not None, state)
            row = apply_options(request, row, deployment)
        except (FeatureError, ConstraintError) as error:
            field, value = request.field(error.path), as_sent(error.value)
            broken = FieldError(field, error.rule, value)
            raise InvalidRequest.of(broken) from None
        exploration = None
        if self._explorer is not None and shed is None:
            row, exploration = self._explorer.explore(request, row)
        return PreparedList(
            request, row, deployment, variant, shed, row.unknown, state, exploration
        )

    async def rank(self, lists: Sequence[PreparedList], timeline: Timeline) -> list[Decision]:
        """Return one decision per list, in order.

        Raises the first error of a list if the setting `on_failure` is `error`.
        """
        pending: list[Pending] = [NOT_SUBMITTED] * len(lists)
        outcomes: list[RowResult | ServiceError] = []
        try:
            self._submit(lists, pending)
            for each in pending:
                if isinstance(each, ServiceError):
                    outcomes.append(each)
                    continue
                try:
                    outcomes.append(await each)
                except (DeadlineExceeded, Overloaded, InferenceFailed) as error:
                    outcomes.append(error)
        finally:
            self._release(pending)
        self._record_outcomes(lists, outcomes)
        failures = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        if failures and self._fail_calls:
            raise failures[0]
        explain_steps = False
        for entry, outcome in zip(lists, outcomes, strict=True):
            explain_steps = explain_steps or entry.request.explain_steps
            if isinstance(outcome, RowResult):
                self._shadows.submit(entry.request.inputs, entry.row, entry.deployment, outcome)
        decisions = [
            decide(entry, outcome, timeline) for entry, outcome in zip(lists, outcomes, strict=True)
        ]
        if explain_steps:
            await self._step_tracing.add(
                decisions,
                [entry.deployment.session.tracer for entry in lists],
                [entry.request.deadline for entry in lists],
            )
        return decisions

    def _submit(self, lists: Sequence[PreparedList], pending: list[Pending]) -> None:
        """Submit the lists, and watch the deadlines of those that were not refused."""
        submit(lists, pending)
        for each, entry in zip(pending, lists, strict=True):
            if not isinstance(each, ServiceError):
                self._deadlines.watch(each, entry.request.deadline)

    def _release(self, pending: Sequence[Pending]) -> None:
        """Cancel what is outstanding, and stop watching the deadlines."""
        for each in pending:
            if isinstance(each, ServiceError):
                continue
            self._deadlines.release(each)
            if not each.cancel() and not each.cancelled():
                each.exception()  # retrieved: asyncio would log an error nobody waits for

    def _record_outcomes(
        self, lists: Sequence[PreparedList], outcomes: Sequence[RowResult | ServiceError]
    ) -> None:
        for entry, outcome in zip(lists, outcomes, strict=True):
            failed = isinstance(outcome, InferenceFailed)
            if failed:
                logger.error("request %s: the model failed", entry.request.request_id)
            self._fleet.record_outcome(entry.deployment, failed)


def make_row(
    request: RankingRequest, deployment: Deployment, is_shed: bool, state: StateUse | None
) -> tuple[Row, StateUse | None]:
    """Featurise a list, without stored features that the bundle's schema does not allow.

    Raises FeatureError for a value of the request.
    """
    session = deployment.session
    make = session.placeholder_row if is_shed else session.row
    while True:
        try:
            row = make(
                request.inputs, request.slate_size, request.budget, request.entropy_threshold
            )
        except FeatureError as error:
            rest = None if state is None else without(request.inputs, state, error.path)
            if rest is None:
                raise
            request.inputs, state = rest
            continue
        if state is not None:
            state.items = row.stored
        return row, state


def apply_options(request: RankingRequest, row: Row, deployment: Deployment) -> Row:
    """Return the row with the options of the request, from its temperatures to its intent.

    Raises ConstraintError, or InvalidRequest for an intent that cannot be followed.
    """
    changes: dict[str, Any] = {}
    if request.reason_temperature is not None:
        changes["reason_temperature"] = request.reason_temperature
    if request.recommend_temperature is not None:
        changes["recommend_temperature"] = request.recommend_temperature
    if request.sampling is not None:
        changes["sampling"] = request.sampling
    if request.constraints is not None:
        longest = min(len(request.inputs.ids), deployment.manifest.slate_length)
        changes["slate_size"], changes["constraints"] = resolve_constraints(
            request, request.constraints, longest, row, deployment.session
        )
    if request.intent is not None:
        changes["intent"] = resolve_intent(request, request.intent, row, deployment.session)
    if request.explain:
        changes["explain"] = True
    return dataclasses.replace(row, **changes) if changes else row


def submit(lists: Sequence[PreparedList], pending: list[Pending]) -> None:
    """Put each list into its deployment's queue and its future, or its refusal, into `pending`.

    Lists of one deployment and priority are submitted together: all find room or none does.
    """
    if len(lists) == 1 and lists[0].shed is None:
        submit_together(lists, pending, [0])
        return
    groups: dict[tuple[int, str], list[int]] = {}
    for index, entry in enumerate(lists):
        if entry.shed is not None:
            pending[index] = entry.shed
            continue
        groups.setdefault((id(entry.deployment), entry.request.priority), []).append(index)
    for indices in groups.values():
        submit_together(lists, pending, indices)


def submit_together(
    lists: Sequence[PreparedList], pending: list[Pending], indices: Sequence[int]
) -> None:
    """Submit the lists at some indices, all of one deployment and priority."""
    first = lists[indices[0]]
    rows = [lists[index].row for index in indices]
    deadlines = [lists[index].request.deadline for index in indices]
    priority = PRIORITIES[first.request.priority]
    submitted: Sequence[Pending]
    try:
        submitted = first.deployment.batcher.submit(rows, deadlines, priority)
    except Overloaded as error:
        submitted = [error] * len(indices)
    for index, each in zip(indices, submitted, strict=True):
        pending[index] = each


def decide(entry: PreparedList, outcome: RowResult | ServiceError, timeline: Timeline) -> Decision:
    """Turn the outcome of a list into a decision; an error becomes the initial ranking."""
    row, manifest, slate, steps = entry.row, entry.deployment.manifest, None, 0
    fallback: Sequence[int] = ()
    if isinstance(outcome, RowResult):
        slate, queue_s, inference_s = outcome.slate, outcome.queue_s, outcome.inference_s
        budget, steps = min(row.budget, outcome.budget), int(slate.steps.sum())
        degraded = "reduced_budget" if budget < row.budget else None
        effect = effect_of(row, slate.indices.tolist(), slate, manifest.slate_length)
    else:
        fallback = row.constraints.initial_ranking(row.slate_size, row.intent)
        effect = effect_of(row, fallback, None, manifest.slate_length)
        budget, degraded = row.budget, outcome.code
        # The list spent all its time waiting, be it in the queue or for a run that was too late.
        queue_s, inference_s = time.monotonic() - timeline.featurised, 0.0
    explored = entry.exploration is not None and entry.exploration.explored
    return Decision(
        entry.request.request_id, manifest.name, manifest.version, entry.variant,
        entry.request.inputs.ids, row, slate, fallback, budget, steps, entry.unknown,
        degraded, timeline, queue_s, inference_s, effect, entry.state,
        explored and slate is not None, entry.request.explain_steps,
    )  # fmt: skip
