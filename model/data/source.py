"""The tables that the reader of every source returns."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from model.data.moment import Moment

LOG_COLUMNS = ("request_id", "user_id", "item_id", "position", "label")


@dataclass(frozen=True)
class Source:
    """The tables that were read from one source.

    rows       request_id str, user_id str, item_id str, position i32, label f32, inline features
    requests   request_id str, user_id str, timestamp i64 [, split str], by timestamp, then file
    items      item_id str and the item features
    users      user_id str and the user features
    ignored    columns of the log that the schema does not name
    histories  request_id str, item_id str, label f32, oldest first; None if the history of a
               request consists of the user's other lists
    moment     record of the split in time; None keeps a data set without one

    A statistic that `items` already has was computed by the source, which also put it inline into
    its train rows. Other statistics are fitted on the train lists.
    """

    rows: pl.LazyFrame
    requests: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    ignored: tuple[str, ...] = ()
    histories: pl.DataFrame | None = None
    moment: Moment | None = None
