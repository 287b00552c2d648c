"""The report of the entity store: rows of every part, kept in state.json between runs."""

from __future__ import annotations

import json
import operator
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtest import page
from loadtest.results import ROOT

NAME = "state"
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


def current_commit(report_directory: Path) -> str:
    """Return the commit that is checked out, with "-dirty" after changes other than of reports.

    Without git it is "unknown", and no part counts as measured before.
    """
    try:
        digits = _git("rev-parse", "HEAD")
        reports = report_directory.resolve()
        pathspec = [f":!{reports}"] if reports.is_relative_to(ROOT) else []
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *pathspec)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{digits}-dirty" if changes else digits


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def is_repeatable(commit: str) -> bool:
    """Return true for a commit that names its files exactly."""
    return commit != "unknown" and not commit.endswith("-dirty")


def read_parts(out: Path) -> dict[str, Any]:
    """Return the parts of an earlier report by name, empty without one that can be read."""
    try:
        parts = json.loads((out / f"{NAME}.json").read_text("utf-8"))["parts"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(parts)


def write_report(out: Path, parts: Mapping[str, Any]) -> None:
    """Write state.json, state.md and state.png. Raises OSError."""
    from loadtest.state import plots

    rows = [{"part": name, **row} for name, part in parts.items() for row in part["rows"]]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"rows": rows, "parts": parts}, indent=1) + "\n"
    (out / f"{NAME}.json").write_text(text, "utf-8")
    (out / f"{NAME}.md").write_text(render_page(parts), "utf-8")
    if curves := parts.get("replay", {}).get("curves"):
        plots.draw_replay(curves, out / f"{NAME}.png")


def render_page(parts: Mapping[str, Any]) -> str:
    """Return the report as Markdown; every figure comes from the parts."""
    text = page.render(f"{NAME}.md", parts=parts, figure=figure, interval=interval)
    return text.rstrip() + "\n"


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
