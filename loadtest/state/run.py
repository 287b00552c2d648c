"""Measure the parts of `python -m loadtest state` that the report lacks."""

from __future__ import annotations

import dataclasses
import importlib

from loadtest.measured import Measured
from loadtest.parts import print_verdict
from loadtest.scenarios import read_bundle
from loadtest.state.command import FULL, State
from loadtest.state.report import NAME, report_in


def measure_state(options: State, command_line: str) -> int:
    """Measure the parts, write the report after each of them, and print their rows.

    Raises ServerError for a service that fails, and KeyboardInterrupt; finished parts are in the
    report then.
    """
    if options.full:
        options = dataclasses.replace(options, users=FULL, items=FULL)
    read_bundle(options.bundle, "manifest.json")
    report = report_in(options.out)
    parts = report.fill(options, command_line, lambda name: measure_part(name, options))
    return print_verdict(NAME, parts)


def measure_part(name: str, options: State) -> Measured:
    """Measure one part. Raises ServerError or httpx.HTTPError."""
    module = importlib.import_module(f"loadtest.state.{name}")
    figures: Measured = module.measure(options)
    return figures
