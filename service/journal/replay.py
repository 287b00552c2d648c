"""Featurise a recorded decision again, with the bundle that made it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from service.engine.constraints import SlateConstraints
from service.engine.intent import DiversityTerm
from service.engine.rows import Row, SlateSampling
from service.engine.session import Session
from service.journal.errors import RecordError
from service.journal.records import Constraints, DecisionRecord, Intent
from service.ranking.intent import resolve_intent
from service.ranking.request import RankingRequest, RequestedIntent


def replay_row(record: DecisionRecord, session: Session) -> Row:
    """Return the row of a decision, with the budget that its run was granted.

    Its arrays are those that were served, bit for bit. Raises RecordError for another bundle.
    """
    if session.digest != record.bundle.digest:
        raise RecordError(
            f"bundle: the decision was made by {record.bundle.name}/{record.bundle.version} of "
            f"SHA-256 {record.bundle.digest}, but the session's is {session.digest}"
        )
    policy, inputs = record.policy, record.candidate_list()
    row = session.row(inputs, len(record.slate), policy.granted, policy.threshold)
    changes: dict[str, Any] = {
        "reason_temperature": policy.reason_temperature,
        "recommend_temperature": policy.recommend_temperature,
    }
    if policy.slates is not None and policy.seed is not None:
        changes["sampling"] = SlateSampling(policy.slates, policy.seed)
    if record.constraints is not None:
        changes["constraints"] = constraints_of(record.constraints)
    if record.intent is not None:
        stated = intent_of(record.intent)
        request = RankingRequest(
            inputs, record.request_id, "", math.inf, sampling=changes.get("sampling"), intent=stated
        )
        changes["intent"] = resolve_intent(request, stated, row, session)
    return dataclasses.replace(row, **changes)


def constraints_of(stated: Constraints) -> SlateConstraints:
    """Return constraints as the graph reads them."""
    return SlateConstraints(
        np.array(stated.pinned, np.int64),
        np.array(stated.group, np.int64),
        np.array(stated.quota, np.float32),
    )


def intent_of(stated: Intent) -> RequestedIntent:
    """Return the intent as the request stated it."""
    values = {
        name: None
        if of_candidates is None
        else [None if entry is None else tuple(entry) for entry in of_candidates]
        for name, of_candidates in stated.values.items()
    }
    boosts = None if stated.boosts is None else np.array(stated.boosts, np.float32)
    return RequestedIntent(
        [DiversityTerm(*term) for term in stated.terms], stated.fields, values, boosts
    )
