"""Options of `python -m model search`, as those of model.study.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Search:
    """Train models by imitation of a search, and compare their regret to it; resumes."""

    data: Path = Path("build/ranklens/warm")
    """Canonical data set."""
    config: Path = Path("model/configs/search.yaml")
    """Training configuration with objectives and search, YAML."""
    out: Path | None = None
    """Directory of search.json. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Directory of finished cells. Default: build/search, with --smoke build/smoke/search."""
    seeds: int = 5
    """Number of seeds of every model."""
    models: tuple[str, ...] = ("EGLR",)
    """Models to compare with the host, of those in model/study/search.py."""
    smoke: bool = False
    """Run a miniature, for tests."""

    def execute(self) -> int:
        """Print a line per model, seed and gate, and write search.json."""
        from model.study.search import report

        report(self)
        return 0
