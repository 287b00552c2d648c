"""The intent of a request about its list: diversity and boosts, in every form of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from service.engine.intent import DiversityTerm
from service.errors import FieldError, InvalidRequest
from service.http.columns import unpacked_numbers
from service.http.fields import LARGEST_BOOST, Diversity, PackedNumbers
from service.http.schemas import (
    Candidate,
    CandidateColumns,
    Candidates,
    PlainCandidate,
    RerankRequest,
)
from service.ranking.request import RequestedIntent, StatedValues

Records = Sequence[Candidate]
DEFAULTS = {name: field.default for name, field in Diversity.model_fields.items()}


def requested_intent(body: RerankRequest, path: str) -> RequestedIntent | None:
    """Return the intent of a validated body, None if it states none.

    Args:
        path: prefix of field paths in errors, such as "requests[3].".

    Raises InvalidRequest for an attribute that is named twice, and for an array of boosts that
    breaks its rules.
    """
    candidates = body.candidates
    boosts = stated_boosts(candidates, path)
    if not body.diversity and boosts is None:
        return None
    stated = body.diversity or []
    if isinstance(stated, list):
        entries, fields = stated, [f"diversity[{index}]" for index in range(len(stated))]
    else:
        entries, fields = [stated], ["diversity"]
    first: dict[str, str] = {}
    for entry, field in zip(entries, fields, strict=True):
        if entry.by in first:
            rule = f"each attribute once, already at {first[entry.by]}"
            raise InvalidRequest.of(FieldError(f"{path}{field}.by", rule, entry.by))
        first[entry.by] = field
    return RequestedIntent(
        terms=[term_of(entry) for entry in entries],
        fields=fields,
        values={entry.by: stated_values(candidates, entry.by) for entry in entries},
        boosts=None
        if boosts is None
        else np.array([0.0 if boost is None else boost for boost in boosts], np.float32),
    )


def term_of(entry: Diversity) -> DiversityTerm:
    """Return one entry of `diversity` with its defaults."""
    weight = DEFAULTS["weight"] if entry.weight is None else entry.weight
    decay = DEFAULTS["decay"] if entry.decay is None else entry.decay
    return DiversityTerm(entry.by, weight, decay, entry.law or DEFAULTS["law"])


def stated_boosts(candidates: Candidates, path: str) -> Sequence[float | None] | None:
    """Return the boost of each candidate, None if no candidate has one. Raises InvalidRequest."""
    if isinstance(candidates, CandidateColumns):
        column, field = candidates.boost or (), f"{path}candidates.boost"
        boosts = unpacked_numbers(column, field)
        if isinstance(column, PackedNumbers):
            for index, boost in enumerate(boosts):
                if boost is not None and abs(boost) > LARGEST_BOOST:
                    rule = f"from {-LARGEST_BOOST:g} to {LARGEST_BOOST:g}"
                    raise InvalidRequest.of(FieldError(f"{field}[{index}]", rule, boost))
    elif isinstance(candidates[0], Candidate):
        boosts = [record.boost for record in cast("Records", candidates)]
    else:
        return None
    return boosts if boosts.count(None) < len(boosts) else None


def stated_values(candidates: Candidates, name: str) -> StatedValues | None:
    """Return the values of an attribute that the request gives, None without any.

    An entry is None for a candidate that has the attribute in neither `topics` nor `groups`.
    """
    topics: Sequence[Sequence[str] | None] | None = None
    groups: Sequence[str | None] | None
    if isinstance(candidates, CandidateColumns):
        topics = (candidates.topics or {}).get(name)
        groups = (candidates.groups or {}).get(name)
        count = len(candidates.id)
    elif isinstance(candidates[0], PlainCandidate):
        records = cast("list[PlainCandidate]", candidates)
        groups = [record.groups.get(name) if record.groups else None for record in records]
        if isinstance(records[0], Candidate):
            topics = [
                record.topics.get(name) if record.topics else None
                for record in cast("Records", records)
            ]
        count = len(records)
    else:
        return None
    values = [
        values_of(*each)
        for each in zip(topics or [None] * count, groups or [None] * count, strict=True)
    ]
    return values if values.count(None) < count else None


def values_of(topics: Sequence[str] | None, group: str | None) -> tuple[str, ...] | None:
    """Return the distinct values of one candidate, whose topics count before its group."""
    if topics is not None:
        return tuple(dict.fromkeys(topics))
    return None if group is None else (group,)
