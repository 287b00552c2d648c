"""Options of `python -m model budget`, as those of model.study.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BudgetReport:
    """Measure what a bundle's slates lose when a busy service cuts the reasoning budget."""

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to measure."""
    data: Path = Path("build/ranklens/warm")
    """Data set that the bundle was trained on; its test lists are ranked."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    page_only: bool = False
    """Write page and plot again from the JSON in --out, without measuring."""
    smoke: bool = False
    """Rank a few lists, for tests."""

    def execute(self) -> int:
        """Write budget.md, budget.json and the plot."""
        from model.study.budget import report

        report(self)
        return 0
