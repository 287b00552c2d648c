"""The report of `python -m loadtest journal`, and its parts that are measured."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

from loadtest.journal.command import Journal
from loadtest.measured import Measured
from loadtest.parts import Report, print_verdict
from loadtest.scenarios import read_bundle

NAME = "journal"
# The options that a part depends on; the report of another choice is measured anew.
OPTIONS: dict[str, tuple[str, ...]] = {
    "cost": ("bundle", "turns", "requests", "rate", "seconds"),
    "kills": ("bundle", "kills"),
    "outages": ("bundle", "rate", "outage_seconds"),
}


def report_in(out: Path) -> Report:
    """Return the report of a directory."""
    return Report(NAME, out, OPTIONS)


def measure_journal(options: Journal, command_line: str) -> int:
    """Measure the parts, write the report after each of them, and print their rows.

    Raises ServerError, LoadTestError, OSError, and KeyboardInterrupt; finished parts are in the
    report then.
    """
    read_bundle(options.bundle, "manifest.json")
    report = report_in(options.out)
    parts = report.fill(options, command_line, lambda name: measure_part(name, options))
    return print_verdict(NAME, parts)


def measure_part(name: str, options: Journal) -> Measured:
    """Measure one part in an empty directory. Raises ServerError or httpx.HTTPError."""
    module = importlib.import_module(f"loadtest.journal.{name}")
    directory = options.scratch / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        figures: Measured = module.measure(options, directory)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)
    return figures
