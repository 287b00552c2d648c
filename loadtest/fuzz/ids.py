"""The forms of an id: text, an integer, or an integral float."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Id = str | int | float
# Unicode's White_Space, which does not count around an id.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
BLANKS += "".join(map(chr, range(0x2000, 0x200B)))
INTEGERS = range(-(2**63), 2**64)  # of MessagePack and of the service's JSON parser
EXACT = range(1 - 2**53, 2**53)  # integers that a double has all of


def is_id(value: Any) -> bool:
    """Return True for text that is not blank and integral numbers; a boolean is no id."""
    if isinstance(value, float):
        return value.is_integer()
    if isinstance(value, str):
        return value.strip(BLANKS) != ""
    return isinstance(value, int) and not isinstance(value, bool)


def canonical(item: Id) -> str:
    """Return the text of an id: 1, 1.0, "1" and " 1" are one id. What is no id has a text too."""
    if isinstance(item, str):
        return item.strip(BLANKS)
    return str(int(item)) if is_id(item) else str(item)


def integer_id(item: str) -> Id:
    """Return the integer that an id is the text of, else the id."""
    try:
        number = int(item)
    except ValueError:
        return item
    return number if str(number) == item and number in INTEGERS else item


def float_id(item: str) -> Id:
    """Return the integral float that an id is the text of, else the id."""
    number = integer_id(item)
    return float(number) if isinstance(number, int) and number in EXACT else number


def mixed_id(item: str) -> Id:
    """Return every other id as an integer."""
    return integer_id(item) if sum(item.encode("utf-8", "surrogatepass")) % 2 else item


def with_ids(body: dict[str, Any], convert: Callable[[Any], Id]) -> dict[str, Any]:
    """Return a copy of a list's body with other ids; keys of `pinned` stay text."""
    body = copy.deepcopy(body)
    columns = body["candidates"]
    if isinstance(columns, dict):
        columns["id"] = [convert(item) for item in columns["id"]]
    else:
        body["candidates"] = [_converted(entry, convert) for entry in columns]
    user, constraints = body.get("user") or {}, body.get("constraints") or {}
    if user.get("id") is not None:
        user["id"] = convert(user["id"])
    if user.get("history"):
        user["history"] = [_converted(entry, convert) for entry in user["history"]]
    if constraints.get("blocked"):
        constraints["blocked"] = [convert(item) for item in constraints["blocked"]]
    return body


def _converted(entry: Any, convert: Callable[[Any], Id]) -> Any:
    return {**entry, "id": convert(entry["id"])} if isinstance(entry, dict) else convert(entry)
