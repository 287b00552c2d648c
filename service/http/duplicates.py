"""JSON objects that repeat a key with another value; parsers differ in the value that counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from service.errors import FieldError, InvalidRequest

RULE = "stated once; it is repeated with another value"
# Keys, objects and lists among which the repeated key is searched for, in about 20 ms.
MAX_PARTS = 20_000
SHORT = 1 << 13  # bytes of a body that is encoded again in less time than its keys are visited
# Objects around a key in a valid body: batch, list, user, history entry, features.
LEVELS = 5


def refuse_repeated_keys(content: bytes, payload: Any) -> None:
    """Raise InvalidRequest if an object in `content` repeats a key with another value.

    Args:
        content: the JSON text.
        payload: the same, decoded by orjson, which keeps the last value of a repeated key.

    Every key has one colon, so as many keys as colons exclude a repeated key. Colons in strings
    survive decoding and encoding, so equal numbers of colons exclude it too. The search below,
    which is slow, is for all other bodies, and for those with a colon as an escape, "\\u003a".
    """
    colons = content.count(b":")
    # Far cheaper than to encode a long body.
    if len(content) > SHORT and _count_keys(payload, LEVELS) == colons:
        return
    try:
        kept = orjson.dumps(payload).count(b":")
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        kept = -1
    # The search for one byte is faster, and most bodies have no escapes.
    escaped = b"\\" in content and (b"\\u003a" in content or b"\\u003A" in content)
    if kept == colons and not escaped:
        return
    if colons + content.count(b"{") + content.count(b"[") > MAX_PARTS:
        if 0 <= kept < colons:
            raise InvalidRequest.of(FieldError("body", "no key twice in one object", len(content)))
        return
    try:
        decoded = json.loads(content, object_pairs_hook=_Object)
        repeated = next(_repeated_keys(decoded, ""), None)
    except RecursionError:  # no field takes a value that is nested so deeply
        return
    if repeated is not None:
        raise InvalidRequest.of(repeated)


def _count_keys(value: Any, levels: int) -> int:
    """Return the number of keys in the outermost `levels` of objects, a lower bound of all keys.

    Values of `features` are not visited: they are many, and valid ones have no keys.
    """
    if type(value) is not dict:
        return 0
    count = len(value)
    if levels > 1:
        for key, entry in value.items():
            if type(entry) is dict:
                count += len(entry) if key == "features" else _count_keys(entry, levels - 1)
            elif type(entry) is list:
                count += sum(_count_keys(one, levels - 1) for one in entry if type(one) is dict)
    return count


class _Object(dict[str, Any]):
    """A decoded JSON object; `repeated` is a key with more than one value, if there is one."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: str | None = None
        if len(self) < len(pairs):
            differing = (key for key, value in pairs if _text(value) != _text(self[key]))
            self.repeated = next(differing, None)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # 1, 1.0 and true are equal in Python


def _repeated_keys(value: Any, path: str) -> Iterator[FieldError]:
    """Yield an error for an object in `value` that has a key of more than one value."""
    if isinstance(value, _Object):
        if value.repeated is not None:
            yield FieldError(_join(path, value.repeated), RULE, value[value.repeated])
        for key, entry in value.items():
            yield from _repeated_keys(entry, _join(path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            if isinstance(entry, (_Object, list)):
                yield from _repeated_keys(entry, f"{path}[{index}]")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
