"""Compare the item features of a log with those of the item table."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from model.data.dataset import Dataset


def stale_shares(dataset: Dataset, splits: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Return, for each item feature, the share of rows whose inline value is not the table's.

    Null inline stands for the value of the table, so such a row does not differ.
    """
    in_table = [name for name in names if name in dataset.items.columns]
    columns = {name: f"__{name}" for name in in_table}  # no feature has a name like it
    table = dataset.items.lazy().select("item_id", *in_table).rename(columns)
    rows = dataset.rows.filter(pl.col("split").is_in(splits)).select("item_id", *names)
    differs = [
        pl.col(name).is_not_null() & pl.col(name).ne_missing(pl.col(columns[name]))
        if name in columns
        else pl.col(name).is_not_null()
        for name in names
    ]
    joined = rows.join(table, on="item_id", how="left")
    shares = joined.select(
        expression.mean().alias(name) for name, expression in zip(names, differs, strict=True)
    )
    return shares.collect(engine="streaming").row(0, named=True)
