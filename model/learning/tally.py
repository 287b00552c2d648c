"""Metrics of each list, collected while lists stream by."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.data.intervals import rounded

Array = np.ndarray[Any, Any]
DIGITS = 4


class Tally:
    """Figures per list, float32 [R] by name; a list costs four bytes for each."""

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return max(map(len, self._columns.values()), default=0)

    @property
    def names(self) -> list[str]:
        """Names of the figures, in the order in which they came."""
        return list(self._columns)

    def add(self, figures: Mapping[str, Array]) -> None:
        """Append the figures of some lists, each [B]."""
        for name, values in figures.items():
            column = self._columns.setdefault(name, array("f"))
            column.frombytes(np.asarray(values, np.float32).tobytes())

    def __getitem__(self, name: str) -> Array:
        return np.array(self._columns[name])

    def count(self, name: str) -> int:
        """Return the number of lists that have a figure."""
        return int((~np.isnan(self[name])).sum())

    def mean(self, name: str) -> list[float | None]:
        """Return mean, low and high of a figure over the lists that have it."""
        return over_lists(self[name])

    def gain(self, name: str, base: Array) -> list[float | None]:
        """Return mean, low and high of the paired difference of a figure and `base` [R]."""
        return over_lists(self[name] - base)


def over_lists(values: Array) -> list[float | None]:
    """Return mean, low and high of values [R], rounded; NaN marks a list that has no value."""
    present = values[~np.isnan(values)]
    return rounded(present, DIGITS) if len(present) else [None, None, None]
