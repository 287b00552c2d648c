"""The report of the entity store: state.json, state.md and the plot of replayed logs."""

from __future__ import annotations

from pathlib import Path

from loadtest.parts import Parts, Report

NAME = "state"
# The options that a part depends on; the report of another choice is measured anew.
OPTIONS: dict[str, tuple[str, ...]] = {
    "lookup": ("engine", "bundle", "turns", "requests", "seconds"),
    "load": ("engine", "bundle", "users", "items", "seconds"),
    "feedback": ("engine", "bundle", "turns", "seconds", "tries"),
    "kills": ("engine", "bundle", "kills"),
    "replay": ("bundle", "ranklens", "config"),
    "erasure": ("engine", "bundle"),
}


def report_in(out: Path) -> Report:
    """Return the report of a directory."""
    return Report(NAME, out, OPTIONS, draw)


def draw(parts: Parts, out: Path) -> None:
    """Write state.png if the parts have its curves."""
    from loadtest.state import plots

    if curves := parts.get("replay", {}).get("curves"):
        plots.draw_replay(curves, out / f"{NAME}.png")
