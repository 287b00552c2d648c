"""The values that a feature of items or users takes in train rows, as they change with time."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from model.data.chunks import read_chunks
from service.engine.features.schema import Feature


def values_over_time(
    feature: Feature, train: pl.LazyFrame, table: pl.DataFrame
) -> Iterator[pl.Series]:
    """Yield the values of a feature that train rows carry inline.

    Each text counts once per item or user that ever has it, in a row or in the table. Numbers count
    once per row, because a number may be another one in every row.

    Args:
        train: the train rows of a data set.
        table: the items or users of these rows.
    """
    key, name = f"{feature.of}_id", feature.name
    stored = table if name in table.columns else table.with_columns(pl.lit(None).alias(name))
    if feature.slots:
        yield _texts(train.select(key, name), stored.select(key, name), feature.kind)
        return
    for chunk in read_chunks(train.select("request_id", key, name)):
        joined = chunk.join(stored.select(key, __stored=name), on=key, how="left")
        yield joined.select(pl.coalesce(name, "__stored").alias(name))[name]


def _texts(rows: pl.LazyFrame, table: pl.DataFrame, kind: str) -> pl.Series:
    """Return each text once per id of `rows` and `table`; both have the columns id and feature."""
    name = table.columns[1]
    frames = [frame.drop_nulls(name) for frame in (rows, table.lazy())]
    if kind == "categories":
        frames = [frame.explode(name).drop_nulls(name) for frame in frames]
    pairs = pl.concat(frames, how="vertical_relaxed").unique()
    return pairs.collect(engine="streaming")[name]
