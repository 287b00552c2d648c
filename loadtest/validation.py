"""Checks of numbers on a command line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadtest.errors import UsageError


def require_positive(**values: float | Sequence[float]) -> None:
    """Raise UsageError for an option that holds a number not above 0 or not finite."""
    for name, value in values.items():
        for number in value if isinstance(value, Sequence) else (value,):
            if not 0 < number < math.inf:
                option = name.replace("_", "-")
                raise UsageError(f"--{option}: must be a number above 0, got {number:g}")


def require_not_negative(**values: float) -> None:
    """Raise UsageError for an option that holds a number below 0 or not finite."""
    for name, number in values.items():
        if not 0 <= number < math.inf:
            option = name.replace("_", "-")
            raise UsageError(f"--{option}: must be a number of at least 0, got {number:g}")
