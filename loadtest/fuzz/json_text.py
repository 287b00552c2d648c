"""Strict readings of JSON, and of the fields that errors name."""

from __future__ import annotations

import json
import math
import re
from typing import Any

PLAIN = re.compile(r"[A-Za-z_]\w*")  # keys that a path can name without ambiguity
STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
NOT_IN_BODY = (
    "header ", "headers", "head", "target", "body", "query", "user id", "item id", "record "
)  # fmt: skip


def is_json(content: bytes) -> bool:
    """Return True if every parser reads it: UTF-8, numbers within a double's, not nested deep."""
    if content.count(b"[") + content.count(b"{") > 900:
        return False
    try:
        text = content.decode()
        value = json.loads(text, parse_constant=no_number, parse_float=finite, parse_int=finite)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    except ValueError:
        return False
    return True


def no_number(text: str) -> float:
    """Refuse NaN and Infinity. Raises ValueError."""
    raise ValueError(f"{text} is no JSON")


def finite(text: str) -> float:
    """Return the number. Raises ValueError if a double cannot hold it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def ambiguous_key(content: bytes) -> str | None:
    """Return a key that an object of the JSON has with two different values, or None.

    Raises ValueError for content that is no JSON.
    """
    repeated: list[str] = []

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields and fields[key] != value:
                repeated.append(key)
            fields[key] = value
        return fields

    json.loads(content, object_pairs_hook=read)
    return repeated[0] if repeated else None


def wrong_field(field: str, payload: Any) -> str | None:
    """Return an error if the path of a field leads through values that the body lacks.

    The last step may be missing, as that of a required field. A body with keys that make a path
    ambiguous is not judged.
    """
    if field.startswith(NOT_IN_BODY) or not _is_plain(payload):
        return None
    value = payload
    steps = [int(index) if index else name for index, name in STEP.findall(field)]
    for step in steps[:-1]:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return f"{field!r} leads through {step!r}, which the body does not have"
    last = steps[-1] if steps else None
    if isinstance(last, int) and last >= _length(value):
        return f"{field!r} names entry {last}, which the body does not have"
    if isinstance(last, str) and not isinstance(value, dict):
        return f"{field!r} names {last!r} of what is no object"
    return None


def _length(value: Any) -> int:
    """Return the number of entries of a list or of an array of MessagePack, else 0."""
    if isinstance(value, dict):
        value = value.get("shape")
        length = value[0] if isinstance(value, list) and value else 0
        return length if isinstance(length, int) else 0
    return len(value) if isinstance(value, list) else 0


def _is_plain(value: Any) -> bool:
    """Return True if every key of a body, which may be nested deeply, is a plain word."""
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            if not all(map(PLAIN.fullmatch, entry)):
                return False
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
    return True
