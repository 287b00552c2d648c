"""The body of a request, and the checks of arguments before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack

import httpx

Candidate = str | Mapping[str, Any]


class Constraints(TypedDict, total=False):
    """Rules of the slate.

    pinned: ids to positions from 0. blocked: ids to leave out. max_per_group: name of a group to
    the most items with the same value.
    """

    pinned: Mapping[str, int]
    blocked: Sequence[str]
    max_per_group: Mapping[str, int]


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

    candidates: Required[Sequence[Candidate]]


def build_list_body(
    candidates: Sequence[Candidate], **options: Unpack[RequestOptions]
) -> dict[str, Any]:
    """Build the JSON of one list.

    Raises TypeError for an unknown field or a candidate without a string id, ValueError without
    candidates.
    """
    if unknown := options.keys() - RequestOptions.__annotations__.keys():
        names = ", ".join(sorted(RequestOptions.__annotations__))
        raise TypeError(f"{', '.join(sorted(unknown))}: unknown field; a request has {names}")
    if isinstance(candidates, str) or not candidates:
        raise ValueError(f"candidates: must be a list of at least one, got {candidates!r}")
    entries = [{"id": one} if isinstance(one, str) else dict(one) for one in candidates]
    for index, entry in enumerate(entries):
        if not isinstance(entry.get("id"), str):
            raise TypeError(
                f"candidates[{index}].id: must be a string, got {entry.get('id')!r}; a candidate "
                "is an id or a mapping with the key 'id'"
            )
    fields = {k: v for k, v in options.items() if v is not None and v is not False}
    return {"candidates": entries, **fields}


def normalize_base_url(url: str) -> str:
    """Strip the slash at the end. Raises ValueError without showing a password in the URL."""
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
    """Return the timeout in milliseconds. Raises ValueError unless it is positive and finite."""
    if not 0 < timeout_ms < math.inf:
        raise ValueError(f"timeout_ms: must be positive and finite, got {timeout_ms!r}")
    return timeout_ms


def check_header(name: str, value: str) -> str:
    """Return the value. Raises ValueError for one that the service would not accept as a header."""
    if not (0 < len(value) <= 128 and value.isascii() and value.isprintable()):
        raise ValueError(f"{name}: must be 1 to 128 printable ASCII characters, got {value!r}")
    return value
