"""Merge new cells into an existing report, because the grid takes hours and caches get lost.

Configuration, data and seed determine a cell, so a report keeps the rows of cells that the cache no
longer has, provided that the cells in both agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Entry = dict[str, Any]
PLACE = ("dataset", "split", "track")
# The fields that identify an entry within each part of the report.
KEYS = {
    "cells": (*PLACE, "model", "seed"),
    "rows": (*PLACE, "model", "seed", "metric"),
    "comparisons": (*PLACE, "model", "against", "metric"),
    "positions": (*PLACE, "model"),
    "tables": (*PLACE, "model"),
}
TOLERANCE = 2e-6  # rows are rounded to six digits


class MergeError(ValueError):
    """A cell in the cache contradicts the existing report."""


def merge_reports(
    old: dict[str, Any], new: dict[str, list[Entry]], replace: bool = False
) -> dict[str, list[Entry]]:
    """Return the entries of both reports; for equal keys the entry with more seeds, else the new.

    Entries of the old report that name no commit get the commit of that report.

    Raises MergeError if a row of both differs, unless `replace` is set: then the old report has
    other code or data.
    """
    commit = old["made"]["commit"]
    old = {part: [with_commit(entry, commit) for entry in old.get(part, ())] for part in KEYS}
    rows = {key_of("rows", row): row["value"] for row in old["rows"]}
    for row in new["rows"] if not replace else ():
        reported = rows.get(key_of("rows", row), row["value"])
        if abs(reported - row["value"]) > TOLERANCE:
            place = ", ".join(str(row[name]) for name in KEYS["rows"])
            raise MergeError(
                f"{place}: {row['value']} in the cache, {reported} in the report; "
                "--replace takes the cache's rows, --fresh writes a report of the cache alone"
            )
    return {part: merge_entries(part, old[part], new[part]) for part in KEYS}


def check_cells(report: dict[str, Any], cells: Iterable[Entry]) -> list[str]:
    """Return the names of cells whose digests equal those of a report.

    Raises MergeError for a cell that the report lacks, or has with another digest.
    """
    digests = {key_of("cells", cell): cell["digest"] for cell in report["cells"]}
    names = []
    for cell in cells:
        key = key_of("cells", cell)
        name = ", ".join(map(str, key))
        if key not in digests:
            raise MergeError(f"{name}: the report has no such cell")
        if digests[key] != cell["digest"]:
            raise MergeError(
                f"{name}: slates or metrics of a list differ from the report's "
                f"(digest {cell['digest'][:12]}, not {digests[key][:12]})"
            )
        names.append(name)
    return names


def with_commit(entry: Entry, commit: str) -> Entry:
    """Return the entry of an old report, with the commits that made it."""
    return {**entry, "commits": entry.get("commits", [commit])}


def merge_entries(part: str, old: Iterable[Entry], new: Iterable[Entry]) -> list[Entry]:
    """Return old entries in their order, replaced unless the new has fewer seeds, then new ones.

    A replaced entry keeps fields that the new one lacks if both have the same number of seeds.
    """
    entries = {key_of(part, addition): addition for addition in old}
    for addition in new:
        key = key_of(part, addition)
        earlier = entries.get(key, {})
        if not earlier or seed_count(addition) > seed_count(earlier):
            entries[key] = addition
        elif seed_count(addition) == seed_count(earlier):
            entries[key] = {**earlier, **addition}
    return list(entries.values())


def key_of(part: str, entry: Entry) -> tuple[Any, ...]:
    """Return the fields that identify an entry within its part of the report."""
    return tuple(entry[name] for name in KEYS[part])


def seed_count(entry: Entry) -> int:
    """Return the number of seeds behind an entry; 1 if it does not say."""
    seeds = entry.get("seeds", 1)
    return seeds if isinstance(seeds, int) else len(seeds)
