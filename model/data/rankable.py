"""Check that a log has lists to learn from and to measure by, before anybody trains."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from model.data import labels
from model.data.errors import DataError
from model.data.files import Files
from service.engine.features.schema import LabelScale

NEEDED_BY = {
    "valid": "train refuses a data set without one",
    "test": "evaluate has nothing to measure",
}


def check_rankable(
    files: Files, rows: pl.LazyFrame, requests: pl.DataFrame, scale: LabelScale
) -> None:
    """Note splits in which no list has two different gains: for others every order is equal.

    Args:
        rows: request_id and label.
        requests: request_id and split.

    Raises DataError if train has no such list.
    """
    gain = labels.gain(scale)
    lists = rows.group_by("request_id").agg((gain.min() < gain.max()).alias("rankable"))
    of_split = lists.join(requests.lazy().select("request_id", "split"), on="request_id")
    counted = of_split.group_by("split").agg(pl.len(), pl.col("rankable").sum())
    counts = {
        split: (total, rankable)
        for split, total, rankable in counted.collect(engine="streaming").iter_rows()
    }
    note_rankable(files, counts, scale)


def note_rankable(files: Files, counts: Mapping[str, tuple[int, int]], scale: LabelScale) -> None:
    """Note splits without a list that has two different gains.

    Args:
        counts: number of lists of each split, and of those with two different gains.

    Raises DataError if train has no such list.
    """
    for split in ("train", *NEEDED_BY):
        total, rankable = counts.get(split, (0, 0))
        if rankable:
            continue
        text = f"none of the {total:,} {split} lists has" if total else f"no {split} list has"
        text += f" {scale.order}"
        if split == "train":
            rule = f"must have lists that tell an order, but {text}"
            raise DataError(files, rule, column="label")
        files.remarks.append(f"{text}; {NEEDED_BY[split]}")
