"""Checks of the types of arguments: the error names the field, the rule and the value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# 1, 1.0, "1" and " 1" are one id, and each comes back as it was sent.
ItemId = str | int | float
EXACT_FLOATS = 1 << 53  # below it, an integral float is exactly one integer
BYTES = (bytes, bytearray, memoryview)


def wrong_type(field: str, rule: str, value: object) -> TypeError:
    """Return the error of a value of a wrong type, with its repr truncated to 100 characters."""
    text = repr(value)
    if len(text) > 100:
        text = f"{text[:100]}..."
    return TypeError(f"{field}: must be {rule}, got {text} of type {type(value).__name__}")


def check_id(field: str, value: object) -> object:
    """Return an id unchanged. Raises TypeError for a value that is none."""
    inexact = isinstance(value, float) and not (value.is_integer() and abs(value) < EXACT_FLOATS)
    if isinstance(value, bool) or inexact or not isinstance(value, ItemId):
        raise wrong_type(field, "an id, a string or an integer", value)
    return value


def id_text(item: ItemId) -> str:
    """Return the text that equal ids have in common; blanks around it do not count."""
    return str(int(item) if isinstance(item, float) and item.is_integer() else item).strip()


def check_integer(field: str, value: object) -> None:
    """Raise TypeError unless the value is an integer; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(field, "an integer", value)


def check_number(field: str, value: object) -> None:
    """Raise TypeError unless the value is a number; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(field, "a number", value)


def as_mapping(field: str, value: object) -> Mapping[Any, Any]:
    """Return a mapping unchanged. Raises TypeError."""
    if not isinstance(value, Mapping):
        raise wrong_type(field, "a mapping", value)
    return value


def as_sequence(field: str, value: object) -> Sequence[Any]:
    """Return a sequence unchanged. Raises TypeError, for text and bytes too."""
    if isinstance(value, (str, *BYTES)) or not isinstance(value, Sequence):
        raise wrong_type(field, "a list", value)
    return value


def as_list(field: str, values: object, entries: str) -> list[Any]:
    """Return the values as a list.

    Raises TypeError for a string, bytes, a mapping, a set, and a value that cannot be iterated.
    """
    wrong = isinstance(values, (str, *BYTES, Mapping, set, frozenset))
    if wrong or not isinstance(values, Iterable):
        raise wrong_type(field, f"a list of {entries}", values)
    return list(values)
