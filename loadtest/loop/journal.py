"""Read what the journal of a loop and its join have."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from loadtest.state.stores import run_module


@dataclass(frozen=True)
class Content:
    """Request ids of the decisions, records of the events, and counts of the join by name."""

    requests: list[str]
    events: list[dict[str, Any]]
    counts: dict[str, int]


def read_journal(journal: Path, joined: Path) -> Content:
    """Read a journal in files and its joined log, whose parts are all done.

    Raises LoadTestError.
    """
    state = json.loads((joined / "join.json").read_text("utf-8"))
    counts: Counter[str] = Counter()
    for part in state["parts"]:
        counts.update(part["counts"])
    requests = pl.read_parquet(joined / "requests" / "*.parquet", columns=["request"])
    lines = run_module("service", "journal", "tail", journal, "--last", 0, "--kind", "event")
    return Content(
        requests["request"].to_list(), [orjson.loads(line) for line in lines.splitlines()],
        dict(counts),
    )  # fmt: skip
