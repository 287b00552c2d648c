"""Count a piece: aggregates of its items that add up with those of other pieces."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from model.data import labels
from model.data.entities import ORDER, TRAIN
from model.data.entity_tables import TIME
from model.data.rated_rows import BUCKET
from model.data.shards.exchange import addresses, write_addressed
from model.data.shards.plan import FOLD, Piece, Plan

ITEMS, FOLDS, TOTALS = "items.parquet", "folds.parquet", "totals"
ITEM = "__item"  # number of an item among those of the piece
FROM = "__from"  # number of the piece that a row comes from
GAIN = "__gain"
COUNTS = ("shows", "likes", "train_shows", "train_likes")


def events_name(width: int) -> str:
    """Return the name of the table of items and time buckets of one width."""
    return f"events-{width}.parquet"


def history_name(feature: str, plan: Plan) -> str:
    """Return the name of the table of values of a feature over time."""
    return f"history-{plan.lacking.index(feature)}.parquet"


def queries_name(feature: str, plan: Plan) -> str:
    """Return the name of the table of rows that lack a feature, or of their values."""
    return f"queries-{plan.lacking.index(feature)}.parquet"


def value_columns(name: str) -> tuple[str, str, str]:
    """Return the columns of a feature's value with the time and the list that it is of."""
    return f"value.{name}", f"time.{name}", f"list.{name}"


def first_columns(name: str) -> tuple[str, str, str]:
    """Return the same columns of the first value of all lists."""
    return f"first.{name}", f"first time.{name}", f"first list.{name}"


def count(directory: Path, plan: Plan, piece: Piece) -> None:
    """Write the aggregates of a piece, addressed to partitions of the items."""
    gain = labels.gain(plan.log.schema.label).alias(GAIN)
    features = plan.log.features("item")
    names = dict.fromkeys([*plan.item_features, *(f for f in plan.lacking if f in features)])
    columns = "request_id", "item_id", ORDER, TIME, TRAIN, FOLD
    rows = plan.rows(piece).select(*columns, gain, *names).collect(engine="streaming").sort(ORDER)
    ids = rows["item_id"].unique().sort()
    partitions = addresses(ids, plan.partitions)
    numbers = pl.DataFrame({"item_id": ids}).with_row_index(ITEM)
    rows = rows.join(numbers, on="item_id", maintain_order="left").drop("item_id")

    def write(table: pl.DataFrame, name: str) -> None:
        of_rows = [ids.gather(table[ITEM]), partitions.gather(table[ITEM])]
        write_addressed(table.drop(ITEM).with_columns(of_rows), directory / name, plan.partitions)

    write(_latest_values(rows, plan), ITEMS)
    for width in plan.widths():
        events = _count_events(rows.with_columns((pl.col(TIME) // width).alias(BUCKET)))
        write(events.with_columns(pl.lit(piece.number, pl.UInt32).alias(FROM)), events_name(width))
        totals = events.group_by(BUCKET).agg(pl.col(COUNTS).sum()).sort(BUCKET)
        totals.write_parquet(directory / f"{TOTALS}-{events_name(width)}")
    if plan.folds and plan.statistics:
        train = rows.drop_nulls(FOLD).group_by(ITEM, pl.col(FOLD).alias("fold"))
        folds = train.agg(shows=pl.len().cast(pl.Int64), likes=pl.col(GAIN).sum())
        folds = folds.sort(ITEM, "fold")
        write(folds.with_columns(pl.lit(piece.number, pl.UInt32).alias(FROM)), FOLDS)
        totals = folds.group_by("fold").agg(pl.col("shows", "likes").sum()).sort("fold")
        totals.write_parquet(directory / f"{TOTALS}-{FOLDS}")
    for name in plan.lacking:
        values = rows.select(ITEM, TIME, "request_id", name).drop_nulls(name)
        write(values, history_name(name, plan))
        queries = rows.filter(pl.col(name).is_null()).select(ITEM, TIME, TRAIN).unique()
        queries = queries.sort(ITEM, TIME, TRAIN)
        numbered = queries.with_columns(pl.lit(piece.number, pl.UInt32).alias(FROM))
        write(numbered, queries_name(name, plan))


def _latest_values(rows: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Return the latest value of each item's features at or before the moment.

    Without a moment, that of the train lists, and the first value of all lists for an item that no
    train list has. `early` tells an item that a list at or before the moment has.

    Args:
        rows: by time.
    """
    as_of = plan.moment.as_of
    early = pl.col(TRAIN) if as_of is None else pl.col(TIME) <= as_of
    aggregates = [early.any().alias("early")]
    sources = ("{}", TIME, "request_id")
    for name in plan.item_features:
        held = pl.col(name).is_not_null()
        for column, source in zip(value_columns(name), sources, strict=True):
            value = pl.col(source.format(name)).filter(held & early).last()
            aggregates.append(value.alias(column))
        if as_of is None:
            for column, source in zip(first_columns(name), sources, strict=True):
                value = pl.col(source.format(name)).filter(held).first()
                aggregates.append(value.alias(column))
    return rows.group_by(ITEM, maintain_order=True).agg(aggregates).sort(ITEM)


def _count_events(rows: pl.DataFrame) -> pl.DataFrame:
    """Count shows and likes by ITEM and BUCKET, of all lists and of the train lists."""
    gain = pl.col(GAIN).cast(pl.Float64)
    return (
        rows.group_by(ITEM, BUCKET)
        .agg(
            shows=pl.len().cast(pl.Float64),
            likes=gain.sum(),
            train_shows=pl.col(TRAIN).sum().cast(pl.Float64),
            train_likes=gain.filter(pl.col(TRAIN)).sum(),
        )
        .sort(ITEM, BUCKET)
    )
