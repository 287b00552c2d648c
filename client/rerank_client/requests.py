"""The body of a request, and the checks of arguments before anything is sent."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack

import httpx

from rerank_client.columns import PackedArray, as_column, pack, with_arrays

# 1, 1.0, "1" and " 1" are one id, and each comes back as it was sent.
ItemId = str | int | float
Candidate = ItemId | Mapping[str, Any]

EXACT_FLOATS = 1 << 53  # below it, an integral float is exactly one integer
MAX_DEPTH = 100  # levels of lists and mappings that the search for a bad value follows
BYTES = (bytes, bytearray, memoryview)


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

    score, features: lists, or arrays of floats, which are sent as their bytes. groups: lists.
    """

    id: Required[Any]
    score: Any
    features: Mapping[str, Any] | None
    groups: Mapping[str, Sequence[str | None] | None] | None


Candidates = Sequence[Candidate] | CandidateColumns


class RequestOptions(TypedDict, total=False):
    """Optional fields of a request, as in docs/service.md; None is the same as leaving one out.

    user: `id`, `history`, `features`. context: features. slate_size: positions (default: that of
    the bundle). reasoning: `budget` (steps per position), `entropy_threshold` (nats). sampling:
    `slates`, `seed`. temperatures: `reason`, `recommend`. model: name of a served model. priority:
    `interactive` or `background`. explain: add an explanation to each position.
    """

    user: Mapping[str, Any] | None
    context: Mapping[str, Any] | None
    slate_size: int | None
    reasoning: Mapping[str, float] | None
    sampling: Mapping[str, int] | None
    temperatures: Mapping[str, float] | None
    constraints: Constraints | None
    explain: bool
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
        options = dict(_mapping(field, request))
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
    if "slate_size" in body:
        _integer(f"{path}slate_size", body["slate_size"])
    if isinstance(user := body.get("user"), Mapping):
        _check_user(f"{path}user", user)
        if isinstance(user.get("features"), Mapping):
            body["user"] = {**user, "features": with_arrays(user["features"])}
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
            _id(f"{field}.id", entry["id"])
        if entry.get("groups") is not None:
            for name, value in _mapping(f"{field}.groups", entry["groups"]).items():
                if not isinstance(value, str | None):
                    raise _wrong(f"{field}.groups.{name}", "a string", value)
        return entry
    return {"id": _id(field, candidate)}


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
        one if isinstance(one, str) else _id(f"{field}.id[{index}]", one)
        for index, one in enumerate(ids)
    ]
    if "score" in entries:
        entries["score"] = _column(f"{field}.score", entries["score"])
    for part in ("features", "groups"):
        if part in entries:
            entries[part] = {
                name: None if column is None else _column(f"{field}.{part}.{name}", column)
                for name, column in _mapping(f"{field}.{part}", entries[part]).items()
            }
    return entries


def _column(field: str, values: object) -> object:
    column = as_column(values)
    return column if isinstance(column, PackedArray) else as_list(field, column, "values")


def _check_user(field: str, user: Mapping[str, Any]) -> None:
    if user.get("id") is not None:
        _id(f"{field}.id", user["id"])
    if user.get("history") is not None:
        entries = _sequence(f"{field}.history", user["history"])
        for index, entry in enumerate(entries):
            if isinstance(entry, str):
                continue
            name = f"{field}.history[{index}]"
            if not isinstance(entry, Mapping):
                _id(name, entry)
            elif "id" in entry:  # without one the service names the field
                _id(f"{name}.id", entry["id"])


def _constraints(field: str, constraints: object) -> Mapping[str, Any]:
    """Return checked constraints, which have no floats as keys: JSON would make them text."""
    rules = _mapping(field, constraints)
    if rules.get("pinned") is not None:
        for item, position in _mapping(f"{field}.pinned", rules["pinned"]).items():
            _id(f"{field}.pinned", item)
            _integer(f"{field}.pinned.{item}", position)
    if rules.get("blocked") is not None:
        for index, item in enumerate(_sequence(f"{field}.blocked", rules["blocked"])):
            _id(f"{field}.blocked[{index}]", item)
    if rules.get("max_per_group") is not None:
        name = f"{field}.max_per_group"
        for group, limit in _mapping(name, rules["max_per_group"]).items():
            _integer(f"{name}.{group}", limit)
    pinned = rules.get("pinned") or {}
    if not any(isinstance(item, float) for item in pinned):
        return rules
    keys = (int(item) if isinstance(item, float) else item for item in pinned)
    return {**rules, "pinned": dict(zip(keys, pinned.values(), strict=True))}


def encode(body: Mapping[str, Any], packed: bool = False) -> bytes:
    """Encode a body as JSON, or as MessagePack if `packed`.

    Raises TypeError or ValueError that names the first value that cannot be sent.
    """
    try:
        if packed:
            return pack(body)
        text = json.dumps(body, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        problem = _unsendable(body, "", 0) or ValueError(f"request: {error}")
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
                return _wrong(f"{path or 'request'}, a key", "a string", key)
        children = [(f"{path}.{key}" if path else str(key), child) for key, child in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, BYTES):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(value)]
    else:
        return _wrong(path, "a string, number, boolean, None, list or mapping", value)
    problems = (_unsendable(child, field, depth + 1) for field, child in children)
    return next((problem for problem in problems if problem is not None), None)


def _wrong(field: str, rule: str, value: object) -> TypeError:
    text = repr(value)
    if len(text) > 100:
        text = f"{text[:100]}..."
    return TypeError(f"{field}: must be {rule}, got {text} of type {type(value).__name__}")


def _id(field: str, value: object) -> object:
    inexact = isinstance(value, float) and not (value.is_integer() and abs(value) < EXACT_FLOATS)
    if isinstance(value, bool) or inexact or not isinstance(value, ItemId):
        raise _wrong(field, "an id, a string or an integer", value)
    return value


def id_text(item: ItemId) -> str:
    """Return the text that equal ids have in common; blanks around it do not count."""
    return str(int(item) if isinstance(item, float) and item.is_integer() else item).strip()


def _integer(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(field, "an integer", value)


def _mapping(field: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(field, "a mapping", value)
    return value


def _sequence(field: str, value: object) -> Sequence[Any]:
    if isinstance(value, (str, *BYTES)) or not isinstance(value, Sequence):
        raise _wrong(field, "a list", value)
    return value


def as_list(field: str, values: object, entries: str) -> list[Any]:
    """Return the values as a list.

    Raises TypeError for a string, bytes, a mapping, a set, and a value that cannot be iterated.
    """
    wrong = isinstance(values, (str, *BYTES, Mapping, set, frozenset))
    if wrong or not isinstance(values, Iterable):
        raise _wrong(field, f"a list of {entries}", values)
    return list(values)


def normalize_base_urls(urls: object) -> list[str]:
    """Return the URLs without the slash at their end.

    Raises TypeError unless they are strings. Raises ValueError for a URL that cannot be used,
    without showing a password in it.
    """
    instances = [urls] if isinstance(urls, str) else as_list("urls", urls, "strings")
    if not instances:
        raise ValueError("urls: at least one URL is needed, got none")
    return [_base_url(url) for url in instances]


def _base_url(url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"urls: must be strings, got {type(url).__name__}")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"urls: {error}") from None
    if parsed.userinfo:
        raise ValueError("urls: must not hold user and password; pass api_key instead")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"urls: must be like http://host:port, got {url!r}")
    return url.rstrip("/")


def check_timeout_ms(timeout_ms: float) -> float:
    """Return the timeout in milliseconds.

    Raises TypeError unless it is a number, ValueError unless it is positive and finite.
    """
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, numbers.Real):
        raise _wrong("timeout_ms", "a number", timeout_ms)
    if not 0 < timeout_ms < math.inf:
        raise ValueError(f"timeout_ms: must be positive and finite, got {timeout_ms!r}")
    return timeout_ms


def check_header(name: str, value: str) -> str:
    """Return the value.

    Raises TypeError unless it is a string, ValueError if the service would not accept it as a
    header.
    """
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)
    printable = value.isascii() and value.isprintable() and value == value.strip()
    if not (printable and 0 < len(value) <= 128):
        raise ValueError(
            f"{name}: must be 1 to 128 printable ASCII characters without a space at either end, "
            f"got {value!r}"
        )
    return value


def check_api_key(api_key: str) -> str:
    """Return the key. Raises TypeError or ValueError that does not show it.

    The check comes first because httpx's error for an illegal header would show the key.
    """
    if not isinstance(api_key, str):
        raise TypeError(f"api_key: must be a string, got {type(api_key).__name__}")
    if not (api_key.isascii() and api_key.isprintable() and api_key.split() == [api_key]):
        raise ValueError("api_key: must be printable ASCII without spaces")
    return api_key
