"""The form in which every source of data is read."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

LOG_COLUMNS = ("request_id", "user_id", "item_id", "position", "label")


@dataclass(frozen=True)
class Source:
    """What was read.

    rows      request_id str, user_id str, item_id str, position i32, label f32, inline features
    requests  request_id str, user_id str, timestamp i64 [, split str]; by timestamp, then file
    items     item_id str and the item features; users  user_id str and the user features
    ignored   columns of the log that the schema does not name
    histories request_id str, item_id str, label f32, oldest first: what each request's user is
              known to have answered, where that is not simply the user's other lists

    A statistic that `items` already has is the source's own, inline in its train rows; the others
    are fitted on the train lists.
    """

    rows: pl.LazyFrame
    requests: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    ignored: tuple[str, ...] = ()
    histories: pl.DataFrame | None = None
