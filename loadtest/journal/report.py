"""The report of `python -m loadtest journal`."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import httpx

from loadtest.errors import MISSED, PASSED
from loadtest.journal import cost, kills
from loadtest.journal.command import Journal
from loadtest.results import commit, hardware
from loadtest.server import ServerError


def measure_journal(options: Journal, command_line: str) -> int:
    """Measure, write and print the report. Raises ServerError, LoadTestError or OSError."""
    parts = {"cost": cost.measure, **({"kills": kills.measure} if options.kills else {})}
    rows: list[dict[str, Any]] = []
    try:
        for name, measure in parts.items():
            directory = options.scratch / name
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            rows += [{"part": name, **row} for row in measure(options, directory).rows]
    except httpx.HTTPError as error:
        raise ServerError(f"{type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)
    report = {
        "command": command_line, "commit": commit(), "machine": hardware(),
        "load": [round(load, 1) for load in os.getloadavg()], "rows": rows,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    for row in rows:
        print(described(row))
    return MISSED if any(row["kept"] is False for row in rows) else PASSED


def described(row: dict[str, Any]) -> str:
    """Return a row as one line of text."""
    verdict = {None: "", True: f"  kept ({row['bar']})", False: f"  MISSED ({row['bar']})"}
    spread = "" if row["low"] is None else f" [{row['low']:g}, {row['high']:g}]"
    text = f"{row['part']:6}{row['engine']:9}{row['what']}: {row['value']:g}{spread} {row['unit']}"
    return text.rstrip() + verdict[row["kept"]]
