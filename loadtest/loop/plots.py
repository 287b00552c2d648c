"""The plot of the loop: expected clicks by day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.loop.command import ArmName
from loadtest.plots import new_figure

STYLES: dict[ArmName, tuple[str, str]] = {
    "best": ("black", ":"),
    "frozen": ("tab:red", "-"),
    "state": ("tab:orange", "-"),
    "loop": ("tab:green", "-"),
    "loop plain": ("tab:green", "--"),
    "loop transformer": ("tab:blue", "-"),
    "loop transformer plain": ("tab:blue", "--"),
}


def draw_days(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot a curve for each arm with its interval, and name it at its end."""
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    for arm, (colour, line) in STYLES.items():
        curve = [row for row in rows if row["arm"] == arm]
        if not curve:
            continue
        days = [row["day"] for row in curve]
        axes.plot(days, [row["expected_clicks"] for row in curve], line, color=colour, marker="o",
                  markersize=3, label=arm)  # fmt: skip
        if curve[0]["low"] is not None and "-" not in line.replace("-", "", 1):
            axes.fill_between(days, [row["low"] for row in curve], [row["high"] for row in curve],
                              color=colour, alpha=0.12, linewidth=0)  # fmt: skip
    axes.set(xlabel="day", ylabel="expected clicks of a list")
    axes.set_xticks(sorted({row["day"] for row in rows}))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=110)
