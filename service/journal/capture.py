"""Build the record of a decision from the re-ranker's own objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.engine.features.stored_items import StoredItems
from service.engine.rows import Row
from service.journal.journal import Journal
from service.journal.records import (
    Bundle,
    Constraints,
    DecisionRecord,
    EventRecord,
    Intent,
    Policy,
    StoredValues,
    now_ms,
)
from service.ranking.decision import Decision
from service.ranking.exploration import NOT_ELIGIBLE
from service.ranking.request import RankingRequest
from service.ranking.reranker import PreparedList
from service.ranking.stored_user import StateUse
from service.state.events import Event
from service.state.writer import Outcome

NOTHING: tuple[Any, ...] = ()


def record_decisions(
    journal: Journal, lists: Sequence[PreparedList], decisions: Sequence[Decision], now: float
) -> None:
    """Add a record for each answered list of a call.

    now: time of time.monotonic() at which the call was answered.
    """
    at = now_ms()
    for entry, decision in zip(lists, decisions, strict=True):
        journal.add(decision_record(entry, decision, journal.next_id(), at, now))


def record_events(journal: Journal, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
    """Add a record for each event that the entity store has, repetitions included."""
    at = now_ms()
    for event, outcome in zip(events, outcomes, strict=True):
        journal.add(
            EventRecord(
                journal.next_id(), at, event.event_id, event.request_id, event.user, event.item,
                event.type, outcome, event.value, event.label, event.time, event.position,
                event.order if event.displays else (),
            )
        )  # fmt: skip


def decision_record(
    entry: PreparedList, decision: Decision, record: str, at: int, now: float
) -> DecisionRecord:
    """Return the record of one answered list.

    Args:
        record: its id.
        at: time in ms since 1970 UTC.
        now: the same moment as a time of time.monotonic().
    """
    request, session, slate = entry.request, entry.deployment.session, decision.slate
    inputs, row = request.inputs, decision.row
    limit = session.featuriser.schema.history.limit
    if slate is None:
        chosen: Sequence[int] = decision.fallback
        logprob = before = after = steps = NOTHING
    else:
        chosen, steps = slate.indices, slate.steps  # type: ignore[assignment]
        logprob, before, after = slate.logprob, slate.entropy_before, slate.entropy_after  # type: ignore[assignment]
    return DecisionRecord(
        record, at, decision.request_id, inputs.user_id, inputs.user,
        inputs.user_is_partial, inputs.history[-limit:], inputs.history_features[-limit:],
        inputs.context, inputs.ids, inputs.scores,
        inputs.features, inputs.columns,
        stored_values(decision.state, inputs.stored),
        Bundle(decision.model, decision.version, session.digest), decision.variant,
        policy_of(entry, decision), constraints_of(request, row),
        None if request.intent is None else intent_of(request),
        chosen, logprob, before, after, steps, decision.utility, decision.unknown,
        decision.reasons, request.priority,
        1e3 * (now - decision.timeline.received - decision.trace_s),
        1e3 * decision.queue_s, 1e3 * decision.inference_s,
    )  # fmt: skip


def policy_of(entry: PreparedList, decision: Decision) -> Policy:
    """Return the policy of a list; an initial ranking is greedy, whatever was drawn before."""
    row, exploration, slate = decision.row, entry.exploration or NOT_ELIGIBLE, decision.slate
    policy = Policy(
        "greedy", exploration.bucket, exploration.share, row.budget, decision.budget,
        row.entropy_threshold, row.reason_temperature, row.recommend_temperature,
    )  # fmt: skip
    if row.sampling is not None and slate is not None:
        policy.kind = "explore" if exploration.explored else "sampled"
        policy.seed, policy.slates = row.sampling.seed, row.sampling.slates
        policy.kept, policy.top = slate.sample, exploration.top
    return policy


def stored_values(use: StateUse | None, items: StoredItems | None) -> StoredValues | None:
    """Return the part of the entity store in a list, None without one."""
    if use is None and items is None:
        return None
    values = StoredValues(None)
    if use is not None:
        values = StoredValues(use.status, use.history, use.features, use.ignored, use.age_s)
    if items is not None:
        values.blobs, values.now, values.live = items.blobs, items.now, items.live
    return values


def constraints_of(request: RankingRequest, row: Row) -> Constraints | None:
    """Return the constraints of a row, None where each candidate may be chosen once."""
    rules = row.constraints
    if request.constraints is None and rules.quota.min(initial=1.0) > 0:
        return None
    return Constraints(rules.pinned.tolist(), rules.group.tolist(), rules.quota.tolist())


def intent_of(request: RankingRequest) -> Intent:
    """Return the intent of a request as it was stated."""
    stated = request.intent
    assert stated is not None
    terms = [(term.name, term.weight, term.decay, str(term.law)) for term in stated.terms]
    boosts = None if stated.boosts is None else stated.boosts.tolist()
    return Intent(terms, stated.fields, stated.values, boosts)
