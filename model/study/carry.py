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


class CarryError(ValueError):
    """A cell that does not say what the standing report says of it."""


def carried(old: dict[str, list[Entry]], new: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """The entries of both reports; of two with the same key the one of more seeds, or the old.

    Raises CarryError where a row of both differs: then the old report is of other code or data.
    """
    rows = {key_of("rows", row): row["value"] for row in old["rows"]}
    for row in new["rows"]:
        before = rows.get(key_of("rows", row), row["value"])
        if abs(before - row["value"]) > TOLERANCE:
            place = ", ".join(str(row[name]) for name in KEYS["rows"])
            raise CarryError(
                f"{place}: {row['value']} in the cache, {before} in the report; "
                "--fresh writes one of the cache alone"
            )
    return {part: merged(part, old.get(part, ()), new[part]) for part in KEYS}


def merged(part: str, old: Iterable[Entry], new: Iterable[Entry]) -> list[Entry]:
    """Old entries in their order, then new ones; replaced where the new has more seeds."""
    found = {key_of(part, entry): entry for entry in old}
    for entry in new:
        key = key_of(part, entry)
        if key not in found or seeds_of(entry) > seeds_of(found[key]):
            found[key] = entry
    return list(found.values())


def key_of(part: str, entry: Entry) -> tuple[Any, ...]:
    """What no other entry of this part of the report has."""
    return tuple(entry[name] for name in KEYS[part])


def seeds_of(entry: Entry) -> int:
    """How many seeds an entry is a mean of; one where it does not say."""
    seeds = entry.get("seeds", 1)
    return seeds if isinstance(seeds, int) else len(seeds)
