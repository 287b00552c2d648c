"""Bodies of the usual form, checked by a few calls for the whole list instead of entry by entry.

Values of any other form, valid or not, are left to pydantic, which names what is wrong.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidatorFunctionWrapHandler

from service.http.ids import MAX_CHARACTERS

PlainHistory = list[tuple[str, float]]

# Ids of visible ASCII, one a line. Others are rare, and the rule for blanks has many characters.
LINE = f"[!-~]{{1,{MAX_CHARACTERS}}}"
LINES = re.compile(f"{LINE}(?:\n{LINE})*")
ONLY_TEXT, ONLY_OBJECTS, NUMBERS = {str}, {dict}, {float, int}


def are_plain_ids(values: list[Any]) -> bool:
    """True if every value is an id that needs no change; false says nothing."""
    if set(map(type, values)) != ONLY_TEXT:
        return False
    text = "\n".join(values)
    # An id with a line break would pass as two.
    return text.count("\n") == len(values) - 1 and LINES.fullmatch(text) is not None


def plain_history(value: Any) -> PlainHistory | None:
    """Return id and label of each entry, None unless every entry has these two and no more."""
    if type(value) is not list or set(map(type, value)) != ONLY_OBJECTS:
        return None
    if set(map(len, value)) != {2}:
        return None
    try:
        ids = [entry["id"] for entry in value]
        labels = [entry["label"] for entry in value]
    except KeyError:
        return None
    if not are_plain_ids(ids) or not NUMBERS.issuperset(map(type, labels)):
        return None
    # Few are distinct. NaN is in no order.
    if not all(0 <= label <= 1 for label in set(labels)):
        return None
    return list(zip(ids, map(float, labels), strict=True))


def read_history(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Return a plain history as pairs of id and label, and any other as it is validated."""
    plain = plain_history(value)
    return validate(value) if plain is None else plain


def read_ids(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Return plain ids as they are, and any others as they are validated."""
    return value if type(value) is list and value and are_plain_ids(value) else validate(value)
