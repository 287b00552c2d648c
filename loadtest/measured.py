"""The figures of a part of a report: rows with bars, and curves."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

COMPARISONS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt, "==": operator.eq}


@dataclass(frozen=True)
class Bar:
    """A bar for a figure: a comparison and the number on its right side."""

    comparison: str
    number: float

    def __str__(self) -> str:
        return f"{self.comparison} {self.number:g}"

    def holds(self, value: float) -> bool:
        """Return true if the value keeps the bar."""
        return bool(COMPARISONS[self.comparison](value, self.number))


@dataclass
class Measured:
    """The figures of one part: rows, and curves by name for the plots."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        what: str,
        engine: str,
        values: float | Sequence[float],
        unit: str,
        bar: Bar | None = None,
    ) -> None:
        """Add a row: one value, or the mean of the values of turns with least and greatest."""
        turns = [values] if isinstance(values, int | float) else list(values)
        mean = float(np.mean(turns))
        spread = (min(turns), max(turns)) if len(turns) > 1 else (None, None)
        self.add_interval(what, engine, (mean, *spread), unit, bar)

    def add_interval(
        self,
        what: str,
        engine: str,
        interval: tuple[float, float | None, float | None],
        unit: str,
        bar: Bar | None = None,
        compared: float | None = None,
    ) -> None:
        """Add a row of value, low and high.

        Args:
            compared: is held against the bar instead of the value, as the low end of an interval.
        """
        value, low, high = (None if number is None else _short(number) for number in interval)
        assert value is not None
        kept = None if bar is None else bar.holds(value if compared is None else compared)
        self.rows.append(
            {
                "what": what, "engine": engine, "value": value, "unit": unit, "low": low,
                "high": high, "bar": None if bar is None else str(bar), "kept": kept,
            }
        )  # fmt: skip


def _short(number: float) -> float:
    """Return a number with five significant digits, whole from 10,000 on."""
    number = float(number)
    return float(round(number)) if abs(number) >= 1e4 else float(f"{number:.5g}")


def figure(number: float) -> str:
    """Return a number for a table: no more digits than tell two runs apart."""
    if number == int(number):
        return f"{number:,.0f}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def interval(row: Mapping[str, Any]) -> str:
    """Return low and high of a row, empty without them."""
    if row["low"] is None or row["high"] is None:
        return ""
    return f"{figure(row['low'])} .. {figure(row['high'])}"
