"""Options of `python -m model report`, as those of model.study.commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.study.commands import report_directory


@dataclass(frozen=True)
class Report:
    """Compare models over seeds, learn from search, and write the quality report; resumes."""

    data: Path = Path("build/ranklens")
    """RankLens, as `python -m model prepare ranklens` writes it."""
    config: Path = Path("model/configs/ranklens.yaml")
    """Training configuration (YAML) that every variant starts from."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Directory of finished cells. Default: build/report, with --smoke build/smoke/report."""
    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to measure with and without reasoning; skipped where the directory does not exist."""
    seeds: int = 5
    """Number of seeds of learning from search; the other models have at most those of SEEDS in
    model/study/variants.py."""
    only_seeds: tuple[int, ...] = ()
    """Seeds to train and report, of those; the others keep their rows. Default: all."""
    movielens: Path = Path("build/movielens")
    """MovieLens data set; skipped when the directory does not exist."""
    tracks: tuple[str, ...] = ()
    """Splits with their track to train and report, such as "warm, stand-alone". Default: all."""
    models: tuple[str, ...] = ()
    """Models to train and report, by the names of the tables; the others keep their rows. Default:
    all."""
    no_training: bool = False
    """Train nothing and report the cells that the cache holds, and the search.json in --out."""
    check: bool = False
    """Compare the cells of the cache with those of the report in --out, and write nothing."""
    replace: bool = False
    """Let rows of the cache replace those of an earlier report in --out, which they must equal
    otherwise."""
    fresh: bool = False
    """Drop the rows of an earlier report in --out instead of keeping those the cache lacks."""
    page_only: bool = False
    """Write page and plots again from the JSON in --out, without training or measuring."""
    smoke: bool = False
    """Run a miniature, for tests."""
    html: tuple[str, ...] | None = None
    """Write instead the HTML pages of these reports in --out, such as quality or
    six_steps/world_law; without a name those of all, with an index."""
    pages: Path = Path("build/pages")
    """With --html: directory of the pages."""

    def execute(self) -> int:
        """Write quality.md, quality.json and the plots, or HTML pages and their paths."""
        if self.html is not None:
            from model.study.html_pages import write_pages

            reports = report_directory(self.out, self.smoke)
            print(*write_pages(reports, self.html, self.pages), sep="\n")
            return 0
        from model.study.report import report

        report(self)
        return 0
