"""JSON integers beyond 64 bits, which orjson decodes as floats and does not encode."""

from __future__ import annotations

import json
from typing import Any

import orjson

from service.engine.features.ids import EXACT_FLOATS
from service.errors import InvalidRequest

INTEGERS = range(-(1 << 63), 1 << 64)  # what orjson and MessagePack have as integers


def decode_exactly(content: bytes, refusal: InvalidRequest) -> Any:
    """Decode a refused JSON body again, with integers of any size.

    The decoder of the standard library is slow, so it reads only bodies that orjson has read and
    whose refusal names such a number. Raises `refusal` for any other body.

    Args:
        content: JSON that orjson has decoded, which bounds an integer to 309 digits.
    """
    values = (error.value for error in refusal.errors)
    if not any(isinstance(value, float) and abs(value) > EXACT_FLOATS for value in values):
        raise refusal
    try:
        return json.loads(content)
    except RecursionError:  # no field takes a value that is nested so deeply
        raise refusal from None


def encodable(number: float) -> float | orjson.Fragment:
    """Return a number as orjson encodes it with all its digits."""
    if isinstance(number, float) or number in INTEGERS:
        return number
    return orjson.Fragment(str(number))
