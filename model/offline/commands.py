"""Options of `python -m model compare` and `python -m model coverage`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Compare:
    """Compare two bundles on the decisions that one of them explored, without serving the other."""

    journal: Path
    """Directory of the journal, in files."""
    old: Path
    """Bundle that made the decisions."""
    new: Path
    """Bundle to compare with it."""
    policy: Literal["sampled", "greedy"] = "sampled"
    """Policies to compare: sampled, as explored users get them, or greedy, as all others do.
    Greedy slates need far more decisions, because a sampled slate seldom is one."""
    lists: int = 20_000
    """Most decisions to read, the latest. Memory grows with their number."""
    types: tuple[str, ...] = ()
    """Types of events whose labels are the reward, such as click. Default: all."""
    attribution: Literal["request", "user"] = "request"
    """Events without a request: request leaves them out, user takes the latest list of the user
    with the item."""
    window_h: float = 24.0
    """Hours after a list within which --attribution user may choose it."""
    clip: float = 100.0
    """Largest weight of a prefix."""
    resamples: int = 2000
    """Resamples of users, for the intervals."""
    seed: int = 0
    """Seed of folds and resamples."""
    out: Path | None = None
    """Directory of compare.json, compare.png and compare.html. Default: only print."""

    def execute(self) -> int:
        """Print estimates, controls and the verdict. Raises OfflineError."""
        from model.offline.bundles import compare_bundles

        compare_bundles(self)
        return 0


@dataclass(frozen=True)
class Coverage:
    """Measure the comparison's intervals and verdicts in the simulated environment; resumes."""

    pairs: int = 400
    """Pairs of policies."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Directory of finished pairs. Default: build/coverage, with --smoke build/smoke/coverage."""
    obp: bool = False
    """Compare with the IPS estimators of obp, in an environment that is made for it. Without it
    the last comparison is kept."""
    obp_environment: Path = Path("build/obp")
    """Directory of obp's environment."""
    smoke: bool = False
    """Use a miniature population, for tests."""

    def execute(self) -> int:
        """Print coverage and goals; write compare.json, compare.md and the plot."""
        from model.offline.coverage import report

        report(self)
        return 0
