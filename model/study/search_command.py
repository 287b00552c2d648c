"""Options of `python -m model search`, as those of model.study.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Search:
    """Train models by imitation of a search, and compare their regret to it; resumes."""

    data: Path = Path("build/ranklens/warm")
    """RankLens, as `python -m model prepare ranklens` writes it; skipped when the directory does
    not exist."""
    movielens: Path = Path("build/movielens")
    """MovieLens data set; skipped when the directory does not exist."""
    config: Path = Path("model/configs/search.yaml")
    """Training configuration of RankLens with objectives and search, YAML."""
    long_config: Path = Path("model/configs/search_long.yaml")
    """Training configuration of RankLens for longer, to see if a lead lasts, YAML."""
    movielens_config: Path = Path("model/configs/search_movielens.yaml")
    """Training configuration of MovieLens, YAML."""
    world_config: Path = Path("model/configs/search_world.yaml")
    """Training configuration of the known world, YAML."""
    out: Path | None = None
    """Directory of search.json and the plots. Default: docs/reports, with --smoke
    build/smoke/reports."""
    cache: Path | None = None
    """Directory of finished cells. Default: build/search, with --smoke build/smoke/search."""
    seeds: int = 5
    """Number of seeds of every model."""
    models: tuple[str, ...] = ()
    """Models to compare with their hosts, such as "pointer EGLR". Default: those of each data set
    in model/study/search_models.py."""
    datasets: tuple[str, ...] = ()
    """Data sets to measure, of world, ranklens, long and movielens. Default: all."""
    finished: bool = False
    """Train nothing: report the cells that exist; every row says over how many seeds."""
    page_only: bool = False
    """Draw the plots again from the JSON in --out, without training or measuring."""
    smoke: bool = False
    """Run a miniature, for tests."""

    def execute(self) -> int:
        """Print a line per data set, seed, model and gate; write search.json and the plots."""
        from model.study.search import report

        report(self)
        return 0
