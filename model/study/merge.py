"""Add what a cache has to a report that stands: the grid takes hours, and caches get lost.

A cell is determined by configuration, data and seed, so a report keeps the rows of cells that are
gone, as long as every cell that both have says the same as it did.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Entry = dict[str, Any]
PLACE = ("dataset", "split", "track")
# What tells the entries of each part of the report apart.
KEYS = {
    "rows": (*PLACE, "model", "seed", "metric"),
    "comparisons": (*PLACE, "model", "against", "metric"),
    "curves": (*PLACE, "budget", "slates"),
    "positions": (*PLACE, "model"),
    "tables": (*PLACE, "title", "model"),
}
TOLERANCE = 2e-6  # rows are rounded to six digits


class MergeError(ValueError):
    """A cell that does not say what the standing report says of it."""


def merge_reports(
    old: dict[str, list[Entry]], new: dict[str, list[Entry]]
) -> dict[str, list[Entry]]:
    """The entries of both reports; of two with the same key the one of more seeds, or the old.

    Raises MergeError where a row of both differs: then the old report is of other code or data.
    """
    rows = {key_of("rows", row): row["value"] for row in old["rows"]}
    for row in new["rows"]:
        reported = rows.get(key_of("rows", row), row["value"])
        if abs(reported - row["value"]) > TOLERANCE:
            place = ", ".join(str(row[name]) for name in KEYS["rows"])
            raise MergeError(
                f"{place}: {row['value']} in the cache, {reported} in the report; "
                "--fresh writes one of the cache alone"
            )
    return {part: merge_entries(part, old.get(part, ()), new[part]) for part in KEYS}


def merge_entries(part: str, old: Iterable[Entry], new: Iterable[Entry]) -> list[Entry]:
    """Old entries in their order, then new ones; replaced where the new has more seeds."""
    entries = {key_of(part, addition): addition for addition in old}
    for addition in new:
        key = key_of(part, addition)
        if key not in entries or seed_count(addition) > seed_count(entries[key]):
            entries[key] = addition
    return list(entries.values())


def key_of(part: str, entry: Entry) -> tuple[Any, ...]:
    """What no other entry of this part of the report has."""
    return tuple(entry[name] for name in KEYS[part])


def seed_count(entry: Entry) -> int:
    """How many seeds an entry is a mean of; one where it does not say."""
    seeds = entry.get("seeds", 1)
    return seeds if isinstance(seeds, int) else len(seeds)
