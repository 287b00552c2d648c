"""Limits and constraints of a request that only its bundle can check."""

from __future__ import annotations

from collections.abc import Sequence

from service.engine import constraints
from service.engine.constraints import ConstraintError, SlateConstraints
from service.engine.contract import Manifest
from service.engine.features.candidates import CandidateList
from service.engine.features.ids import as_sent
from service.engine.rows import Row
from service.engine.session import Session
from service.errors import FieldError, InvalidRequest
from service.ranking.request import RankingRequest, RequestedConstraints, first_values


def check_limits(request: RankingRequest, manifest: Manifest) -> None:
    """Raise InvalidRequest naming every field that breaks a limit of the bundle."""
    path, ids = request.path, request.inputs.ids
    errors = repeated_ids(request) if len(set(ids)) < len(ids) else []
    if len(ids) > manifest.max_candidates:
        rule = f"at most {manifest.max_candidates} candidates"
        errors.append(FieldError(f"{path}candidates", rule, len(ids)))
    longest = min(len(ids), manifest.slate_length)
    if request.slate_size is not None and request.slate_size > longest:
        rule = f"at most {longest}, the lesser of candidates and the bundle's slate length"
        errors.append(FieldError(f"{path}slate_size", rule, request.slate_size))
    if request.budget is not None and request.budget > manifest.budget:
        rule = f"at most {manifest.budget}, the budget of the bundle's graph"
        errors.append(FieldError(f"{path}reasoning.budget", rule, request.budget))
    if errors:
        raise InvalidRequest.of(*errors)


def repeated_ids(request: RankingRequest) -> list[FieldError]:
    """Return an error for each candidate whose id stands earlier in the list."""
    errors = []
    first: dict[str, int] = {}
    for position, item in enumerate(request.inputs.ids):
        if item in first:
            rule = f"unique within the list, already at candidates[{first[item]}]"
            field = request.field(f"candidates[{position}].id")
            errors.append(FieldError(field, rule, as_sent(item)))
        first.setdefault(item, position)
    return errors


def resolve_constraints(
    request: RankingRequest,
    stated: RequestedConstraints,
    longest: int,
    row: Row,
    session: Session,
) -> tuple[int, SlateConstraints]:
    """Return the slate's size and its rules.

    Args:
        longest: the lesser of candidates and the bundle's slate length.

    Raises ConstraintError.
    """
    groups = None
    if stated.limit is not None:
        groups = group_values(stated.limit[0], stated, request.inputs, row, session)
    return constraints.resolve(
        request.inputs.ids,
        request.slate_size,
        longest,
        stated.pinned,
        set(stated.blocked),
        groups,
        stated.limit,
    )


def group_values(
    attribute: str,
    stated: RequestedConstraints,
    inputs: CandidateList,
    row: Row,
    session: Session,
) -> Sequence[str | None]:
    """Return each candidate's group as text, so that values are equal whatever their source.

    The request's group counts first, then an inline feature, then the item table.

    Raises ConstraintError if none of them has the attribute.
    """
    values = stated.groups.get(attribute)
    try:
        categories = session.groups(attribute, row)
    except KeyError:
        if values is None:
            rule = "a category of the model's schema, or a key of candidates[].groups"
            if session.featuriser.is_hashed(attribute):
                rule = "a key of candidates[].groups, because the model has buckets of its values"
            raise ConstraintError("constraints.max_per_group", rule, attribute) from None
        return values
    inline = inputs.values(attribute)
    if inline is not None:
        # A value that the vocabulary lacks has no token of its own, so its text is compared.
        texts = [None if value is None else str(value) for value in inline]
        categories = first_values(texts, categories)
    return categories if values is None else first_values(values, categories)
