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
    statistics: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in summary.json."""
        return dataclasses.asdict(self)


def read_moment(directory: Path) -> Moment | None:
    """Return the record of a data set; None for one that has none, such as RankLens.

    Raises DataError for a record that cannot be read.
    """
    try:
        summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
        record = summary.get(RECORD)
        return None if record is None else Moment(**record)
    except FileNotFoundError:
        return None
    except (AttributeError, TypeError, ValueError) as error:
        rule = f"cannot be read ({error}); {AGAIN}"
        raise DataError(directory / SUMMARY, rule, column=RECORD) from None
