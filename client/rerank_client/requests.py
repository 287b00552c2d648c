"""The body of a request, and the checks of arguments before anything is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict, Unpack

from rerank_client.checks import (
    BYTES,
    ItemId,
    as_list,
    as_mapping,
    as_sequence,
    check_id,
    check_integer,
    check_number,
    wrong_type,
)
from rerank_client.columns import PackedArray, as_column, pack, with_arrays
from rerank_client.intent import Diversity, check_diversity, check_topics

Candidate = ItemId | Mapping[str, Any]

MAX_DEPTH = 100  # levels of lists and mappings that the search for a bad value follows


class Constraints(TypedDict, total=False):
    """Rules of the slate.

    pinned: ids to positions from 0. blocked: ids to leave out. max_per_group: name of a group to
    the most items with the same value.
    """

    pinned: (
        Mapping[ItemId, int] | Mapping[str, int] | Mapping[int, int] | Mapping[float, int] | None
    )
    blocked: Sequence[ItemId] | None
    max_per_group: Mapping[str, int] | None


class CandidateColumns(TypedDict, total=False):
    """The candidates by column, each as long as `id`.

    score, features, boost: lists, or arrays of floats, which are sent as their bytes. groups:
    lists. topics: lists whose entries are lists of values, or None.
    """

    id: Required[Any]
    score: Any
    features: Mapping[str, Any] | None
    groups: Mapping[str, Sequence[str | None] | None] | None
    topics: Mapping[str, Sequence[Sequence[str] | None] | None] | None
    boost: Any


Candidates = Sequence[Candidate] | CandidateColumns


class RequestOptions(TypedDict, total=False):
    """Optional fields of a request, as in docs/service.md; None is the same as leaving one out.

    user: `id`, `history` (ids, or mappings of `id`, `label` and `features`), `features`. context:
    features. slate_size: positions (default: that of the bundle). reasoning: `budget` (steps per
    position), `entropy_threshold` (nats). sampling: `slates`, `seed`. temperatures: `reason`,
    `recommend`. model: name of a served model. priority: `interactive` or `background`. explain:
    add an explanation to each position, with `steps` also the states of reasoning. diversity: one
    mapping or a list of them, of `by`, `weight`, `decay` and `law`.
    """

    user: Mapping[str, Any] | None
    context: Mapping[str, Any] | None
    slate_size: int | None
    reasoning: Mapping[str, float] | None
    sampling: Mapping[str, int] | None
    temperatures: Mapping[str, float] | None
    constraints: Constraints | None
    diversity: Diversity | Sequence[Diversity] | None
    explain: bool | Literal["steps"]
    model: str | None
    priority: str | None


class ListRequest(RequestOptions, total=False):
    """One list of a batch: its candidates and optional fields."""

    candidates: Required[Candidates]


def build_list_body(candidates: Candidates, **options: Unpack[RequestOptions]) -> dict[str, Any]:
    """Build the JSON of one list.

    Raises TypeError for an unknown field, an id that is neither string nor integral number, or a
    constraint of another type; ValueError without candidates.
    """
    return _list_body("", candidates, options)


def build_batch_bodies(requests: Sequence[ListRequest]) -> list[dict[str, Any]]:
    """Build the JSON of every list. Raises the same as build_list_body."""
    bodies = []
    for index, request in enumerate(as_list("requests", requests, "mappings")):
        field = f"requests[{index}]"
        options = dict(as_mapping(field, request))
        if "candidates" not in options:
            raise TypeError(f"{field}.candidates: missing; every list needs its candidates")
        bodies.append(_list_body(f"{field}.", options.pop("candidates"), options))
    return bodies


def _list_body(path: str, candidates: object, options: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := options.keys() - RequestOptions.__annotations__.keys():
        names = ", ".join(sorted(RequestOptions.__annotations__))
        fields = ", ".join(f"{path}{name}" for name in sorted(map(str, unknown)))
        raise TypeError(f"{fields}: unknown field; a request has {names}")
    if isinstance(candidates, str):
        raise ValueError(f"{path}candidates: must be a list of ids or mappings, got {candidates!r}")
    entries: list[Any] | dict[str, Any]
    if isinstance(candidates, Mapping):
        entries = _columns(f"{path}candidates", candidates)
    else:
        entries = [
            {"id": one} if isinstance(one, str) else _candidate(f"{path}candidates[{index}]", one)
            for index, one in enumerate(as_list(f"{path}candidates", candidates, "ids or mappings"))
        ]
    if not (entries["id"] if isinstance(entries, dict) else entries):
        raise ValueError(f"{path}candidates: at least one is needed, got none")
    body = {name: value for name, value in options.items() if value is not None}
    if body.get("explain") is False:
        del body["explain"]
    if "diversity" in body:
        check_diversity(f"{path}diversity", body["diversity"])
    if "slate_size" in body:
        check_integer(f"{path}slate_size", body["slate_size"])
    if isinstance(user := body.get("user"), Mapping):
        _check_user(f"{path}user", user)
        body["user"] = _user_with_arrays(user)
    if isinstance(body.get("context"), Mapping):
        body["context"] = with_arrays(body["context"])
    if "constraints" in body:
        body["constraints"] = _constraints(f"{path}constraints", body["constraints"])
    return {"candidates": entries, **body}


def _candidate(field: str, candidate: object) -> dict[str, Any]:
    if isinstance(candidate, Mapping):
        entry = dict(candidate)
        if "id" not in entry:
            raise TypeError(f"{field}.id: missing; a candidate is an id or a mapping with it")
        if not isinstance(entry["id"], str):
            check_id(f"{field}.id", entry["id"])
        if entry.get("groups") is not None:
            for name, value in as_mapping(f"{field}.groups", entry["groups"]).items():
                if not isinstance(value, str | None):
                    raise wrong_type(f"{field}.groups.{name}", "a string", value)
        if entry.get("topics") is not None:
            for name, values in as_mapping(f"{field}.topics", entry["topics"]).items():
                check_topics(f"{field}.topics.{name}", values)
        if entry.get("boost") is not None:
            check_number(f"{field}.boost", entry["boost"])
        return entry
    return {"id": check_id(field, candidate)}


def _columns(field: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return candidates by column with arrays packed."""
    names = CandidateColumns.__annotations__
    for name in columns:
        if name not in names:
            raise TypeError(f"{field}.{name}: unknown column; must be one of {', '.join(names)}")
    if "id" not in columns:
        raise TypeError(f"{field}.id: missing; candidates are a list, or columns with their ids")
    entries = {name: column for name, column in columns.items() if column is not None}
    ids = as_list(f"{field}.id", as_column(columns["id"]), "ids")
    entries["id"] = [
        one if isinstance(one, str) else check_id(f"{field}.id[{index}]", one)
        for index, one in enumerate(ids)
    ]
    for name in ("score", "boost"):
        if name in entries:
            entries[name] = _column(f"{field}.{name}", entries[name])
    if isinstance(entries.get("boost"), list):
        for index, boost in enumerate(entries["boost"]):
            if boost is not None:
                check_number(f"{field}.boost[{index}]", boost)
    for part in ("features", "groups", "topics"):
        if part in entries:
            entries[part] = {
                name: None if column is None else _column(f"{field}.{part}.{name}", column)
                for name, column in as_mapping(f"{field}.{part}", entries[part]).items()
            }
    for name, column in entries.get("topics", {}).items():
        for index, values in enumerate(column or ()):
            check_topics(f"{field}.topics.{name}[{index}]", values)
    return entries


def _column(field: str, values: object) -> object:
    column = as_column(values)
    return column if isinstance(column, PackedArray) else as_list(field, column, "values")


def _check_user(field: str, user: Mapping[str, Any]) -> None:
    if user.get("id") is not None:
        check_id(f"{field}.id", user["id"])
    if user.get("history") is not None:
        entries = as_sequence(f"{field}.history", user["history"])
        for index, entry in enumerate(entries):
            if isinstance(entry, str):
                continue
            name = f"{field}.history[{index}]"
            if not isinstance(entry, Mapping):
                check_id(name, entry)
            elif "id" in entry:  # without one the service names the field
                check_id(f"{name}.id", entry["id"])


def _user_with_arrays(user: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a user with the arrays of its features and of those of its history packed."""
    changed: dict[str, Any] = {}
    if isinstance(user.get("features"), Mapping):
        changed["features"] = with_arrays(user["features"])
    history = user.get("history") or ()
    if any(isinstance(entry, Mapping) and "features" in entry for entry in history):
        changed["history"] = [
            {**entry, "features": with_arrays(entry["features"])}
            if isinstance(entry, Mapping) and "features" in entry
            else entry
            for entry in history
        ]
    return {**user, **changed} if changed else user


def _constraints(field: str, constraints: object) -> Mapping[str, Any]:
    """Return checked constraints, which have no floats as keys: JSON would make them text."""
    rules = as_mapping(field, constraints)
    if rules.get("pinned") is not None:
        for item, position in as_mapping(f"{field}.pinned", rules["pinned"]).items():
            check_id(f"{field}.pinned", item)
            check_integer(f"{field}.pinned.{item}", position)
    if rules.get("blocked") is not None:
        for index, item in enumerate(as_sequence(f"{field}.blocked", rules["blocked"])):
            check_id(f"{field}.blocked[{index}]", item)
    if rules.get("max_per_group") is not None:
        name = f"{field}.max_per_group"
        for group, limit in as_mapping(name, rules["max_per_group"]).items():
            check_integer(f"{name}.{group}", limit)
    pinned = rules.get("pinned") or {}
    if not any(isinstance(item, float) for item in pinned):
        return rules
    keys = (int(item) if isinstance(item, float) else item for item in pinned)
    return {**rules, "pinned": dict(zip(keys, pinned.values(), strict=True))}


def encode(body: Mapping[str, Any], packed: bool = False, path: str = "") -> bytes:
    """Encode a body as JSON on one line, or as MessagePack if `packed`.

    Raises TypeError or ValueError that names the first value that cannot be sent; `path` is the
    field that holds the body.
    """
    try:
        if packed:
            return pack(body)
        text = json.dumps(body, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        problem = _unsendable(body, path, 0) or ValueError(f"request: {error}")
        raise problem from None
    return text.encode()


def _plain(value: object) -> object:
    """Convert a mapping that is no dict, and a sequence that is no list or tuple."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, BYTES):
        return list(value)
    raise TypeError(f"got {type(value).__name__}")


def _unsendable(value: object, path: str, depth: int) -> Exception | None:
    """Return an exception about the first value in `value` that JSON cannot hold, None if all fit.

    path: the field that holds `value`.
    """
    if depth > MAX_DEPTH:
        return ValueError(f"{path[:100]}...: must not be nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        return ValueError(f"{path}: must be finite, got {value!r}")
    if value is None or isinstance(value, str | int | float | PackedArray):
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                return wrong_type(f"{path or 'request'}, a key", "a string", key)
        children = [(f"{path}.{key}" if path else str(key), child) for key, child in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, BYTES):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(value)]
    else:
        return wrong_type(path, "a string, number, boolean, None, list or mapping", value)
    problems = (_unsendable(child, field, depth + 1) for field, child in children)
    return next((problem for problem in problems if problem is not None), None)
