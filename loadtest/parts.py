"""Reports in parts, each written when it ends and kept for the same commit and options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from tqdm import tqdm

from loadtest import page
from loadtest.errors import MISSED, PASSED
from loadtest.measured import Measured, figure, interval
from loadtest.results import ROOT, hardware
from loadtest.server import ServerError

Parts = Mapping[str, Any]  # by name: provenance, options, rows and curves


class Options(Protocol):
    """Options of a command with parts; the report names others by their fields."""

    @property
    def only(self) -> Sequence[str]:
        """Parts to measure."""

    @property
    def restart(self) -> bool:
        """Measure again the parts that the report has."""


def draw_nothing(parts: Parts, out: Path) -> None:
    """Draw no plots."""


@dataclass(frozen=True)
class Report:
    """NAME.json and NAME.md in a directory.

    options: by part, in the order of the page, the options that its figures depend on.
    draw: draws the plots of the parts into the directory.
    """

    name: str
    out: Path
    options: Mapping[str, Sequence[str]]
    draw: Callable[[Parts, Path], None] = draw_nothing

    def fill(
        self, options: Options, command_line: str, measure: Callable[[str], Measured]
    ) -> dict[str, Any]:
        """Measure the chosen parts that the report lacks, write it after each, and return them.

        Other parts stay as they are. Raises ServerError for a service that fails, and whatever
        `measure` raises; finished parts are in the report then.
        """
        commit, parts = current_commit(self.out), self.read()
        with tqdm(total=len(options.only), unit="part", disable=None) as bar:
            for name in options.only:
                chosen = self._options_of(name, options)
                bar.set_postfix_str(name)
                if options.restart or not is_measured(parts.get(name), commit, chosen):
                    began = time.monotonic()
                    try:
                        figures = measure(name)
                    except httpx.HTTPError as error:
                        raise ServerError(f"{name}: {type(error).__name__}: {error}") from error
                    parts[name] = {
                        "command": command_line, "commit": commit, "machine": hardware(),
                        "load": [round(load, 1) for load in os.getloadavg()],
                        "seconds": round(time.monotonic() - began, 1), "options": chosen,
                        "rows": figures.rows, "curves": figures.curves,
                    }  # fmt: skip
                    parts = {part: parts[part] for part in self.options if part in parts}
                    self.write(parts)
                bar.update()
        return {name: parts[name] for name in options.only}

    def _options_of(self, name: str, options: Options) -> dict[str, Any]:
        """Return the options that a part depends on, as JSON has them."""
        values = {option: getattr(options, option) for option in self.options[name]}
        chosen: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return chosen

    def read(self) -> dict[str, Any]:
        """Return the parts of an earlier report by name, empty without one that can be read."""
        try:
            parts = json.loads((self.out / f"{self.name}.json").read_text("utf-8"))["parts"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return dict(parts)

    def write(self, parts: Parts) -> None:
        """Write the files of the report. Raises OSError."""
        rows = [{"part": name, **row} for name, part in parts.items() for row in part["rows"]]
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"rows": rows, "parts": parts}, indent=1) + "\n"
        (self.out / f"{self.name}.json").write_text(text, "utf-8")
        (self.out / f"{self.name}.md").write_text(self.render(parts), "utf-8")
        self.draw(parts, self.out)

    def render(self, parts: Parts) -> str:
        """Return the report as Markdown; every figure comes from the parts."""
        text = page.render(f"{self.name}.md", parts=parts, figure=figure, interval=interval)
        return text.rstrip() + "\n"


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


def is_measured(part: Mapping[str, Any] | None, commit: str, chosen: Mapping[str, Any]) -> bool:
    """Return true for a part of the same commit and options."""
    if part is None or not is_repeatable(commit):
        return False
    return bool(part["commit"] == commit and part["options"] == chosen)


def print_verdict(command: str, parts: Parts) -> int:
    """Print every row; return MISSED if one of them missed its bar."""
    missed = 0
    for name, part in parts.items():
        for row in part["rows"]:
            verdict = {None: "", True: f"  kept ({row['bar']})", False: f"  MISSED ({row['bar']})"}
            spread = "" if row["low"] is None else f" [{row['low']:g}, {row['high']:g}]"
            print(
                f"{name:9}{row['engine']:11}{row['what']}: {row['value']:g}{spread} {row['unit']}"
                f"{verdict[row['kept']]}"
            )
            missed += row["kept"] is False
    if missed:
        print(f"loadtest {command}: {missed} bars were missed", file=sys.stderr)
    return MISSED if missed else PASSED
