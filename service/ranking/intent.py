"""The intent of a list: resolve it against a bundle, and report its effect on a slate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.features.ids import read_id
from service.engine.intent import IntentError, SlateIntent, build_intent
from service.engine.rows import Row, Slate
from service.engine.session import Session
from service.errors import FieldError, InvalidRequest
from service.ranking.request import RankingRequest, RequestedIntent, StatedValues, first_values


@dataclass(slots=True)
class IntentEffect:
    """The effect of an intent on each position of a slate.

    boost, diversity: nats that each added to the logit of the choice. instead_of: index of the
    candidate that the model would have chosen there without them, in a sampled slate with the same
    noise, None if it is the choice. All are None at a pinned position; instead_of is None as well
    in a degraded slate, where no logits say it. choices: positions whose instead_of was determined.
    """

    boost: list[float | None]
    diversity: list[float | None]
    instead_of: list[int | None]
    choices: int

    @property
    def changed(self) -> int:
        """The number of positions whose choice the intent changed."""
        return len(self.instead_of) - self.instead_of.count(None)


def resolve_intent(
    request: RankingRequest, stated: RequestedIntent, row: Row, session: Session
) -> SlateIntent | None:
    """Return the intent of a list as the graph reads it, None if all of it is 0.

    Raises InvalidRequest for a bundle without intent, an attribute that neither request nor bundle
    has, and one with too many values.
    """
    if not session.supports_intent:
        manifest = session.manifest
        rule = (
            f"absent, because {manifest.name}/{manifest.version} was exported without it; export "
            "the model again, or use python -m export upgrade"
        )
        if stated.terms:
            value: object = [term.name for term in stated.terms]
            raise refusal(request, "diversity", rule, value)
        assert stated.boosts is not None  # an intent has terms or boosts
        index = int(np.argmax(stated.boosts != 0))
        boost = round(float(stated.boosts[index]), 6)
        raise refusal(request, f"candidates[{index}].boost", rule, boost)
    values = [
        attribute_values(request, field, term.name, stated.values[term.name], row, session)
        for field, term in zip(stated.fields, stated.terms, strict=True)
    ]
    try:
        slates = request.sampling.slates if request.sampling else 1
        intent = build_intent(stated.terms, values, stated.boosts, slates)
    except IntentError as error:
        raise refusal(request, f"{stated.fields[error.term]}.by", error.rule, error.value) from None
    return intent if intent.boost is not None or len(intent.weight) else None


def attribute_values(
    request: RankingRequest,
    field: str,
    attribute: str,
    stated: StatedValues | None,
    row: Row,
    session: Session,
) -> Sequence[tuple[str, ...]]:
    """Return each candidate's distinct values of an attribute as text.

    The values of the request count first, then an inline feature, then the item table.

    Args:
        field: path of the term below the request.
        stated: the values that the request has in `topics` or `groups`.

    Raises InvalidRequest if none of them has the attribute.
    """
    try:
        values: Sequence[tuple[str, ...]] = session.values(attribute, row)
    except KeyError:
        if stated is None:
            rule = (
                "a category, categories or identifier of items or candidates in the model's "
                "schema, or a key of candidates[].topics or groups"
            )
            if session.featuriser.is_hashed(attribute):
                rule = "a key of candidates[].topics, because the model has buckets of its values"
            raise refusal(request, f"{field}.by", rule, attribute) from None
        return [() if entry is None else entry for entry in stated]
    inline = request.inputs.values(attribute)
    if inline is not None:
        # A value that the vocabulary lacks has no token of its own, so its text is compared.
        texts = [None if value is None else texts_of(value) for value in inline]
        values = first_values(texts, values)
    return values if stated is None else first_values(stated, values)


def texts_of(value: object) -> tuple[str, ...]:
    """Return the distinct values of an inline feature, which the schema allows, as text."""
    entries = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(
        dict.fromkeys(entry if isinstance(entry, str) else str(read_id(entry)) for entry in entries)
    )


def refusal(request: RankingRequest, field: str, rule: str, value: object) -> InvalidRequest:
    """Return the error of a field, in the form of the request."""
    return InvalidRequest.of(FieldError(request.field(field), rule, value))


def effect_of(
    row: Row, indices: Sequence[int], slate: Slate | None, positions: int
) -> IntentEffect | None:
    """Return the effect of a row's intent on a slate, None without an intent.

    Args:
        indices: candidate index of each position.
        slate: None for a degraded one.
        positions: K of the graph, for which noise is drawn.
    """
    intent = row.intent
    if intent is None:
        return None
    pinned = row.constraints.pinned.tolist()
    chosen = list(indices)
    adjustment = intent.adjustment(chosen)
    boosts = intent.boosts()[chosen]
    bonuses = adjustment[np.arange(len(chosen)), chosen] - boosts
    others: list[int | None] = [None] * len(chosen)
    choices = 0
    if slate is not None and slate.logits is not None:
        choices = pinned.count(-1)
        scores = (slate.logits - adjustment) / np.float32(row.recommend_temperature)
        if row.sampling is not None:
            noise = row.sampling.noise(positions, scores.shape[1])
            scores += noise[slate.sample, : len(chosen)]
        alone = scores.argmax(axis=1).tolist()
        others = [
            None if pin >= 0 or other == item else other
            for pin, other, item in zip(pinned, alone, chosen, strict=True)
        ]
    boost, diversity = (
        [None if pin >= 0 else value for pin, value in zip(pinned, nats.tolist(), strict=True)]
        for nats in (boosts, bonuses)
    )
    return IntentEffect(boost, diversity, others, choices)
