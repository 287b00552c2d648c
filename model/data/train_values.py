"""The values that a feature of items or users takes in train rows, as they change with time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from model.data.chunks import read_chunks
from service.engine.features.schema import Feature


def numbers_over_time(
    names: Sequence[str], key: str, train: pl.LazyFrame, table: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """Yield the numbers that train rows carry inline, or else the table holds.

    They count once per row, because a number may be another one in every row.

    Args:
        key: item_id or user_id.
        train: the train rows of a data set.
        table: the items or users of these rows.
    """
    stored = table.select(key, **{f"__{name}": name for name in names if name in table.columns})
    for chunk in read_chunks(train.select("request_id", key, *names)):
        joined = chunk.join(stored, on=key, how="left")
        yield joined.select(
            pl.coalesce(name, f"__{name}") if name in table.columns else pl.col(name)
            for name in names
        )


def texts_over_time(feature: Feature, train: pl.LazyFrame, table: pl.DataFrame) -> pl.Series:
    """Return the texts that train rows carry inline or the table holds.

    Each counts once per item or user that ever has it, in a row or in the table.
    """
    key, name = f"{feature.of}_id", feature.name
    stored = table if name in table.columns else table.with_columns(pl.lit(None).alias(name))
    return _texts(train.select(key, name), stored.select(key, name), feature.kind)


def _texts(rows: pl.LazyFrame, table: pl.DataFrame, kind: str) -> pl.Series:
    """Return each text once per id of `rows` and `table`; both have the columns id and feature."""
    name = table.columns[1]
    frames = [frame.drop_nulls(name) for frame in (rows, table.lazy())]
    if kind == "categories":
        frames = [frame.explode(name).drop_nulls(name) for frame in frames]
    pairs = pl.concat(frames, how="vertical_relaxed").unique()
    return pairs.collect(engine="streaming")[name]
