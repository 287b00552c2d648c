"""Checks of a command line."""

from __future__ import annotations

import itertools
import math
from collections import Counter
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


def refuse_repeats(arguments: Sequence[str]) -> None:
    """Raise UsageError if an option occurs twice, since tyro would drop the value of the first.

    A list is passed after one option, as in `--rate 100 300`.
    """
    used = itertools.takewhile(lambda argument: argument != "--", arguments)
    names = (name.partition("=")[0].replace("_", "-") for name in used if name.startswith("--"))
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f"{name}: must be passed once, got it {count} times")
