"""The split of a data set in time, and the moment up to which its tables tell what is known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.errors import DataError

SUMMARY, RECORD = "summary.json", "time"  # file and key of the record
TOTALS = "statistics"  # key of the totals in a data set without a record
Totals = Mapping[str, Mapping[str, Any]]  # all_shows, all_likes, bucket and half_life, by name
AGAIN = "write the data set again with `python -m model prepare`"


@dataclass(frozen=True)
class Moment:
    """The record that `prepare impressions` writes.

    split       time, last-list, user or column
    as_of       time of the latest train list, in ms; None for a log without time
    ordered     every train list precedes every valid list, and these every test list
    statistics  by name: all_shows, all_likes, bucket and half_life of its counts
    """

    split: str
    as_of: int | None
    ordered: bool
    statistics: Totals = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in summary.json."""
        return dataclasses.asdict(self)


def read_moment(directory: Path) -> Moment | None:
    """Return the record of a data set; None for one that has none, such as RankLens.

    Raises DataError for a record that cannot be read.
    """
    record = _read(directory, RECORD)
    try:
        return None if record is None else Moment(**record)
    except TypeError as error:
        raise _unreadable(directory, RECORD, error) from None


def read_totals(directory: Path) -> Totals:
    """Return the totals of the counts of a data set without a record of its moment.

    Raises DataError for totals that cannot be read.
    """
    totals = _read(directory, TOTALS) or {}
    if not isinstance(totals, dict):
        raise _unreadable(directory, TOTALS, TypeError(type(totals).__name__))
    return totals


def _read(directory: Path, key: str) -> Any:
    """Return a value of summary.json, None without it. Raises DataError."""
    try:
        return json.loads((directory / SUMMARY).read_text(encoding="utf-8")).get(key)
    except FileNotFoundError:
        return None
    except (AttributeError, ValueError) as error:
        raise _unreadable(directory, key, error) from None


def _unreadable(directory: Path, key: str, error: Exception) -> DataError:
    rule = f"cannot be read ({error}); {AGAIN}"
    return DataError(directory / SUMMARY, rule, column=key)
