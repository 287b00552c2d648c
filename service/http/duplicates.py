"""JSON objects that repeat a key with another value; parsers differ in the value that counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from service.errors import FieldError, InvalidRequest

RULE = "stated once; it is repeated with another value"
# Objects that are searched for the repeated key; a body of this many costs about 10 ms.
MAX_OBJECTS = 20_000


def refuse_repeated_keys(content: bytes, payload: Any) -> None:
    """Raise InvalidRequest if an object in `content` repeats a key with another value.

    Args:
        content: the JSON text.
        payload: the same, decoded by orjson, which keeps the last value of a repeated key.

    Every key has one colon, and colons in strings survive decoding and encoding, so equal numbers
    of colons exclude a repeated key. The search below, which is slow, is for all other bodies, and
    for those that may have a colon as an escape, "\\u003a".
    """
    try:
        colons = orjson.dumps(payload).count(b":")
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        colons = -1
    # The search for one byte is faster, and most bodies have no escapes.
    escaped = b"\\" in content and b"\\u003" in content
    if colons == content.count(b":") and not escaped:
        return
    if content.count(b"{") > MAX_OBJECTS:
        raise InvalidRequest.of(FieldError("body", "no key twice in one object", len(content)))
    try:
        decoded = json.loads(content, object_pairs_hook=_Object)
        repeated = next(_repeated_keys(decoded, ""), None)
    except RecursionError:  # no field takes a value that is nested so deeply
        return
    if repeated is not None:
        raise InvalidRequest.of(repeated)


class _Object(dict[str, Any]):
    """A decoded JSON object, and its keys that have more than one value."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: list[str] = []
        if len(self) < len(pairs):
            self.repeated = [key for key, value in pairs if _text(value) != _text(self[key])]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # 1, 1.0 and true are equal in Python


def _repeated_keys(value: Any, path: str) -> Iterator[FieldError]:
    """Yield an error for each key that has more than one value."""
    if isinstance(value, _Object):
        for key in value.repeated:
            yield FieldError(_join(path, key), RULE, value[key])
        for key, entry in value.items():
            yield from _repeated_keys(entry, _join(path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _repeated_keys(entry, f"{path}[{index}]")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
