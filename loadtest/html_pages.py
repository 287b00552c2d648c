"""The HTML pages of committed load tests, with their plots drawn from their JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from loadtest.errors import PASSED, UsageError


@dataclass(frozen=True)
class Html:
    """Write HTML pages of committed reports about load: growth, overload and state.

    The page of bench and capacity is written by these commands.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = (
        "growth", "overload", "state",
    )  # fmt: skip
    """Reports, without suffix."""
    reports: Path = Path("docs/reports")
    """Directory of their Markdown and JSON files."""
    out: Path = Path("build/pages")
    """Directory of the pages."""

    def execute(self, command_line: str) -> int:
        """Write the pages and print their paths."""
        from loadtest import plots
        from loadtest.loop.plots import draw_days
        from loadtest.state.plots import draw_replay
        from pages.reports import Drawing, UnknownReportError, write_reports

        drawings: dict[str, tuple[str, Drawing]] = {
            "growth.png": ("growth.json", plots.growth),
            "loop.png": ("loop.json", lambda report, path: draw_days(report["rows"], path)),
            "overload.png": ("overload.json", plots.overload),
            "state.png": (
                "state.json",
                lambda report, path: draw_replay(report["parts"]["replay"]["curves"], path),
            ),
        }
        try:
            print(*write_reports(self.reports, self.names, self.out, drawings), sep="\n")
        except UnknownReportError as error:
            raise UsageError(str(error)) from error
        return PASSED
