"""Measure the parts of `python -m loadtest state` that the report lacks."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import time
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.errors import MISSED, PASSED
from loadtest.results import hardware
from loadtest.scenarios import read_bundle
from loadtest.server import ServerError
from loadtest.state.command import FULL, PARTS, Part, State
from loadtest.state.report import Measured, current_commit, is_repeatable, read_parts, write_report

# The options that a part depends on; the report of another choice is measured anew.
OPTIONS: dict[Part, tuple[str, ...]] = {
    "lookup": ("engine", "bundle", "turns", "requests", "seconds"),
    "load": ("engine", "bundle", "users", "items", "seconds"),
    "feedback": ("engine", "bundle", "turns", "seconds", "tries"),
    "kills": ("engine", "bundle", "kills"),
    "replay": ("bundle", "ranklens", "config"),
    "erasure": ("engine", "bundle"),
}


def measure_state(options: State, command_line: str) -> int:
    """Measure the parts and write the report after each of them.

    Parts of the report that were not chosen stay as they are. Raises ServerError for a service that
    fails, and KeyboardInterrupt; finished parts are in the report then.
    """
    if options.full:
        options = dataclasses.replace(options, users=FULL, items=FULL)
    read_bundle(options.bundle, "manifest.json")
    commit = current_commit(options.out)
    parts = read_parts(options.out)
    with tqdm(total=len(options.only), unit="part", disable=None) as bar:
        for name in options.only:
            chosen = options_of(name, options)
            bar.set_postfix_str(name)
            if options.restart or not is_measured(parts.get(name), commit, chosen):
                began = time.monotonic()
                figures = measure_part(name, options)
                parts[name] = {
                    "command": command_line, "commit": commit, "machine": hardware(),
                    "load": [round(load, 1) for load in os.getloadavg()],
                    "seconds": round(time.monotonic() - began, 1), "options": chosen,
                    "rows": figures.rows, "curves": figures.curves,
                }  # fmt: skip
                parts = {part: parts[part] for part in PARTS if part in parts}
                write_report(options.out, parts)
            bar.update()
    return print_verdict({name: parts[name] for name in options.only})


def measure_part(name: Part, options: State) -> Measured:
    """Measure one part. Raises ServerError."""
    module = importlib.import_module(f"loadtest.state.{name}")
    try:
        figures: Measured = module.measure(options)
    except httpx.HTTPError as error:
        raise ServerError(f"{name}: {type(error).__name__}: {error}") from error
    return figures


def options_of(name: Part, options: State) -> dict[str, Any]:
    """Return the options that a part depends on, as JSON has them."""
    values = {option: getattr(options, option) for option in OPTIONS[name]}
    chosen: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return chosen


def is_measured(part: dict[str, Any] | None, commit: str, chosen: dict[str, Any]) -> bool:
    """Return true for a part of the same commit and options."""
    if part is None or not is_repeatable(commit):
        return False
    return bool(part["commit"] == commit and part["options"] == chosen)


def print_verdict(parts: dict[str, Any]) -> int:
    """Print every row; return MISSED if one of them missed its bar."""
    missed = 0
    for name, part in parts.items():
        for row in part["rows"]:
            verdict = {None: "", True: f"  kept ({row['bar']})", False: f"  MISSED ({row['bar']})"}
            spread = "" if row["low"] is None else f" [{row['low']:g}, {row['high']:g}]"
            print(
                f"{name:9}{row['engine']:6}{row['what']}: {row['value']:g}{spread} {row['unit']}"
                f"{verdict[row['kept']]}"
            )
            missed += row["kept"] is False
    if missed:
        print(f"loadtest state: {missed} bars were missed", file=sys.stderr)
    return MISSED if missed else PASSED
