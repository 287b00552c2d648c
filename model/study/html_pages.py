"""Write the HTML pages of committed reports, those of the other packages by their commands."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.offline import report as offline
from model.study import budget, diversity_plots, plots, search_plots
from model.study.summary import SECTIONS
from pages.reports import Drawing, check_names, report_names, write_index, write_reports


def draw_search(plot: Callable[[list[Mapping[str, Any]], Path], None]) -> Drawing:
    """Return the drawing of a figure about learning from search, which quality.json holds."""

    def draw(report: Mapping[str, Any], path: Path) -> None:
        plot([entry for entry in report["search"]["datasets"] if entry["gates"]], path)

    return draw


# Image of a report -> its JSON file and its drawing.
DRAWINGS: dict[str, tuple[str, Drawing]] = {
    "budget.png": ("budget.json", lambda report, path: budget.plot(report["rows"], path)),
    "compare.png": ("compare.json", offline.plot_coverage),
    "diversity.png": (
        "diversity.json",
        lambda report, path: diversity_plots.plot_fronts(report["rows"], report["advice"], path),
    ),
    "entropy.png": (
        "quality.json",
        lambda report, path: plots.plot_entropy(report["positions"], SECTIONS, path),
    ),
    "evaluator.png": ("evaluator.json", plots.plot_evaluator),
    "search_entropy.png": ("quality.json", draw_search(search_plots.plot_entropy)),
    "search_regret.png": ("quality.json", draw_search(search_plots.plot_regret)),
    "world.png": ("world.json", plots.plot_world),
    "world_law.png": ("world_law.json", plots.plot_world),
}
# Package -> its reports whose plots it draws.
OTHERS = {"loadtest": ("growth", "overload", "state"), "peers": ("peers",)}


def write_pages(reports: Path, names: Sequence[str], pages: Path) -> list[Path]:
    """Write the pages of reports, or without names those of all with an index.

    A report of a package that is not installed, as in the image for training, has its plots as
    committed.

    Args:
        reports: Directory of Markdown and JSON files.
        names: Reports, without suffix.
        pages: Directory of the pages.

    Returns:
        The paths of the pages. Raises UnknownReportError for a name without a report, and
        OSError if a command of another package fails.
    """
    chosen = list(dict.fromkeys(names)) or report_names(reports)
    check_names(reports, chosen)
    delegated: list[str] = []
    for package, of_package in OTHERS.items():
        wanted = [name for name in of_package if name in chosen]
        if wanted and importlib.util.find_spec(package) is not None:
            delegated += wanted
            run_package(package, wanted, reports, pages)
    write_reports(reports, [name for name in chosen if name not in delegated], pages, DRAWINGS)
    paths = [pages / f"{name}.html" for name in chosen]
    return paths if names else [write_index(reports, chosen, pages), *paths]


def run_package(package: str, names: Sequence[str], reports: Path, pages: Path) -> None:
    """Let another package write its pages. Raises OSError with its message if it fails."""
    options = ["html", *names, "--reports", str(reports), "--out", str(pages)]
    if package == "peers":
        options = ["--html", str(pages), "--out", str(reports)]
    command = [sys.executable, "-m", package, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
