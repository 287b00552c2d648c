"""From what came over the wire to a checked body, and on to what the featuriser reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.engine.features.featuriser import Request
from service.errors import FieldError, InvalidRequest
from service.http.schemas import CandidateColumns, RerankRequest

T = TypeVar("T", bound=BaseModel)
Groups = dict[str, list[str | None]]  # attribute -> a value per candidate


def request_of(body: RerankRequest, path: str) -> tuple[Request, Groups]:
    """The list as the featuriser reads it, and the groups that its constraints may mean.

    Raises InvalidRequest.
    """
    given, user = body.candidates, body.user
    features: Sequence[dict[str, Any]] = ()
    groups: Groups = {}
    if isinstance(given, CandidateColumns):
        uneven = given.uneven()
        if uneven is not None:
            rule = f"as long as id, which has {len(given.id)}"
            raise InvalidRequest.of(FieldError(f"{path}candidates.{uneven[0]}", rule, uneven[1]))
        ids, scores, groups = given.id, given.score or (), given.groups
        if given.features:
            names = list(given.features)
            rows = zip(*given.features.values(), strict=True)
            features = [dict(zip(names, row, strict=True)) for row in rows]
    else:
        ids = [candidate.id for candidate in given]
        scores = [candidate.score for candidate in given]
        if any(candidate.features for candidate in given):
            features = [candidate.features or {} for candidate in given]
        for name in body.constraints.max_per_group if body.constraints else ():
            if any(name in candidate.groups for candidate in given):
                groups[name] = [candidate.groups.get(name) for candidate in given]
    request = Request(
        ids=ids,
        scores=scores,
        features=features,
        user_id=user.id if user else None,
        user=user.features if user else {},
        history=[(entry.id, entry.label) for entry in user.history] if user else (),
        context=body.context,
    )
    return request, groups


def validated(model: type[T], payload: Any) -> T:
    """The payload as model. Raises InvalidRequest naming every broken field."""
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        errors = [
            FieldError(
                path_of(entry["loc"]),
                rule_of(entry["type"], entry["loc"], entry["msg"], entry.get("ctx", {})),
                None if entry["type"] == "missing" else entry["input"],
            )
            for entry in error.errors(include_url=False)[:20]
        ]
        raise InvalidRequest.of(*errors) from None


def rule_of(
    kind: str, location: Sequence[str | int], message: str, context: Mapping[str, Any]
) -> str:
    """What was expected, in our words where they are better than pydantic's."""
    if kind.startswith("model_") and "history" in location[-2:-1]:
        return "an id, or an object with id and label"
    if kind.startswith("model_") and "records" in location[-2:-1]:
        return "an object with id, or every candidate an id alone"
    if kind == "too_long":
        most = context["max_length"]
        return "at most one entry" if most == 1 else f"at most {most} entries"
    return RULES.get(kind, message)


RULES = {
    "extra_forbidden": "unknown field",
    "missing": "required",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "too_short": "at least one entry",
}


FORMS = ("records", "columns")  # of candidates; the schema's words, not the body's


def path_of(location: Sequence[str | int]) -> str:
    """("candidates", 3, "id") -> candidates[3].id"""
    path = ""
    for index, part in enumerate(location):
        if part in FORMS and index and location[index - 1] == "candidates":
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
