"""The body of a request, and the checks of arguments before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack

import httpx

Candidate = str | Mapping[str, Any]


class Constraints(TypedDict, total=False):
    """What the slate must keep to: ids to positions from 0, ids left out, most items of a value."""

    pinned: Mapping[str, int]
    blocked: Sequence[str]
    max_per_group: Mapping[str, int]


class RequestOptions(TypedDict, total=False):
    """What may be asked of a slate, as in docs/service.md; None is as good as left out.

    user: `id`, `history`, `features`; context: features; slate_size: positions (default: the
    bundle's); reasoning: `budget` (steps per position), `entropy_threshold` (nats); sampling:
    `slates`, `seed`; temperatures: `reason`, `recommend`; model: by name; priority:
    `interactive` or `background`; explain: ask for an explanation of each position.
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
    """One list of a batch call: its candidates, and what is asked of its slate."""

    candidates: Required[Sequence[Candidate]]


def build_list_body(
    candidates: Sequence[Candidate], **options: Unpack[RequestOptions]
) -> dict[str, Any]:
    """One list as the service reads it. Raises TypeError, ValueError for what is none."""
    if unknown := options.keys() - RequestOptions.__annotations__.keys():
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
    if isinstance(candidates, str) or not candidates:
        raise ValueError("candidates: a list of at least one")
    entries = [{"id": one} if isinstance(one, str) else dict(one) for one in candidates]
    for index, entry in enumerate(entries):
        if not isinstance(entry.get("id"), str):
            raise TypeError(f"candidates[{index}]: an id, or a mapping with a string as id")
    fields = {k: v for k, v in options.items() if v is not None and v is not False}
    return {"candidates": entries, **fields}


def normalize_base_url(url: str) -> str:
    """Without a slash at its end. Raises ValueError, which does not show a password in it."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"urls: {error}") from None
    if parsed.userinfo:
        raise ValueError("urls: no user and password, give an api_key")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"urls: http://host:port, got {url!r}")
    return url.rstrip("/")


def check_timeout_ms(timeout_ms: float) -> float:
    if not 0 < timeout_ms < math.inf:
        raise ValueError(f"timeout_ms: a positive number, got {timeout_ms!r}")
    return timeout_ms


def check_header(name: str, value: str) -> str:
    """Raises ValueError for what the service would not take over from a header."""
    if not (0 < len(value) <= 128 and value.isascii() and value.isprintable()):
        raise ValueError(f"{name}: 1 to 128 printable ASCII characters, got {value!r}")
    return value
