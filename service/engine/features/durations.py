"""Durations as texts, such as 90m, 6h and 3d."""

from __future__ import annotations

import re

MINUTE = 60_000  # ms
UNITS = {"s": 1000, "m": MINUTE, "h": 60 * MINUTE, "d": 1440 * MINUTE, "w": 7 * 1440 * MINUTE}
DURATION = "a duration above 0 such as 90m, 6h or 3d"
_TEXT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")


def to_ms(text: str) -> int:
    """Return a duration in ms. Raises ValueError for anything but a number and one of `UNITS`."""
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    duration = 0 if match is None else round(float(match[1]) * UNITS[match[2]])
    if duration < 1:
        raise ValueError(f"must be {DURATION}, got {text!r}")
    return duration


def is_duration(value: object) -> bool:
    """True for a text that `to_ms` reads."""
    try:
        return isinstance(value, str) and to_ms(value) > 0
    except ValueError:
        return False
