"""Rules that the parts of a feature schema share, and the error of a schema that breaks one."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping


class SchemaError(ValueError):
    """An impossible feature schema; the message names the feature, the rule and the value."""


def is_finite(value: object, above: float = -math.inf) -> bool:
    """True for a number above `above` that a float64 can hold; booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return above < value and abs(value) <= sys.float_info.max


def refuse_unknown(payload: object, fields: set[str], path: str) -> None:
    """Raise SchemaError unless the payload is a mapping with no other keys than `fields`."""
    if not isinstance(payload, Mapping):
        raise SchemaError(f"{path}: must be a mapping of names to values, got {payload!r}")
    for key in payload:
        if key not in fields:
            raise SchemaError(
                f"{path}.{key}: unknown field; must be one of {', '.join(sorted(fields))}"
            )
