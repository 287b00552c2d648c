"""Merge the aggregates of a partition of the items, and answer the pieces that sent them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from model.data import statistics
from model.data.entities import TRAIN, value_at
from model.data.entity_tables import TIME
from model.data.rated_rows import BUCKET
from model.data.rates import Events, Totals, rates_over_time
from model.data.shards.counts import (
    COUNTS,
    FOLDS,
    FROM,
    ITEMS,
    events_name,
    first_columns,
    history_name,
    queries_name,
    value_columns,
)
from model.data.shards.exchange import TO, read_addressed, write_addressed
from model.data.shards.plan import Plan

ITEM, PAIR = "__item", "__pair"  # numbers of an item, and of an item in a bucket
TRAIN_VALUE = "__train {}"  # value of a statistic in train rows
LIKES = "likes.parquet"  # counts behind the statistics


def merge(
    directory: Path, plan: Plan, counted: Sequence[Path], totals: Path, partition: int
) -> None:
    """Write the items of one partition, their statistics and the values for each piece.

    Args:
        counted: directories of the aggregates of all pieces.
        totals: directory of the counts over all items.
    """

    def read(name: str) -> pl.DataFrame:
        paths = [path / name for path in counted]
        return read_addressed(paths, partition).collect(engine="streaming")

    _merge_values(read(ITEMS), plan).write_parquet(directory / ITEMS)
    counts: list[pl.DataFrame] = []
    for width in plan.widths():
        of_all = pl.read_parquet(totals / events_name(width))
        values, ends = _rate(read(events_name(width)), plan, width, of_all)
        write_addressed(values, directory / events_name(width), plan.pieces)
        counts.append(ends)
    if plan.folds and plan.statistics:
        of_all = pl.read_parquet(totals / FOLDS)
        values, ends = _rate_by_fold(read(FOLDS), plan, of_all)
        write_addressed(values, directory / FOLDS, plan.pieces)
        counts.append(ends)
    if counts:
        pl.concat(counts, how="align").write_parquet(directory / LIKES)
    for name in plan.lacking:
        history, queries = read(history_name(name, plan)), read(queries_name(name, plan))
        observed = history.sort("request_id" if plan.log.timed else TIME)
        observed = observed.unique(["item_id", TIME], keep="last", maintain_order=True)
        observed = observed.select("item_id", TIME, name).sort(TIME, "item_id")
        asked_once = queries.select("item_id", TIME, TRAIN).unique()
        values = value_at(asked_once, "item_id", name, observed, plan.cutoff)
        answers = queries.join(values, on=["item_id", TIME, TRAIN])
        write_addressed(
            answers.rename({FROM: TO}), directory / queries_name(name, plan), plan.pieces
        )


def _merge_values(partial: pl.DataFrame, plan: Plan) -> pl.DataFrame:
    """Return each item with the values that `counts.count` took from single pieces."""
    items = partial.group_by("item_id").agg(pl.col("early").any()).sort("item_id")
    order = ["time", "list"] if plan.log.timed else ["time"]
    for name in plan.item_features:
        merged = []
        for columns, last in ((value_columns(name), True), (first_columns(name), False)):
            if columns[0] not in partial.columns:
                continue
            stated = partial.select("item_id", *columns).drop_nulls(columns[0])
            stated = stated.rename(dict(zip(columns, ("value", "time", "list"), strict=True)))
            values = stated.sort(order).group_by("item_id", maintain_order=True)
            value = pl.col("value").last() if last else pl.col("value").first()
            merged.append(values.agg(value.alias(columns[0])))
        for table in merged:
            items = items.join(table, on="item_id", how="left", maintain_order="left")
        named = [table.columns[1] for table in merged]
        items = items.with_columns(pl.coalesce(named).alias(name)).drop(named)
    if plan.moment.as_of is not None:
        items = items.filter("early")
    return items.drop("early")


def _rate(
    partial: pl.DataFrame, plan: Plan, width: int, of_all: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the values of items in time buckets for each piece, and the counts at the moment.

    Args:
        of_all: counts of all items by bucket.
    """
    ids = partial["item_id"].unique().sort()
    numbers = pl.DataFrame({"item_id": ids}).with_row_index(ITEM)
    partial = partial.join(numbers, on="item_id").drop("item_id").sort(BUCKET, ITEM)
    partial = partial.with_columns(pl.struct(BUCKET, ITEM).rle_id().alias(PAIR))
    pairs = partial.group_by(PAIR, maintain_order=True).agg(
        pl.col(ITEM, BUCKET).first(), pl.col(COUNTS).sum()
    )
    in_train = pl.col("train_shows") > 0.0
    of_train = pairs.filter(in_train)
    ends = pl.DataFrame({"item_id": ids})
    values: list[pl.Series] = []
    for feature in plan.statistics:
        clock = plan.clocks()[feature.name]
        if clock.bucket != width:
            continue
        until, strength = dataclasses.replace(clock, as_of=plan.last), feature.prior_strength
        every = _events(pairs, ids, ""), until, strength, _totals(of_all, "")
        trained = _events(of_train, ids, "train_"), clock, strength, _totals(of_all, "train_")
        train_rates, counts = rates_over_time(*trained)
        of_pairs = np.full(len(pairs), np.nan)
        of_pairs[pairs.select(in_train).to_series().to_numpy()] = train_rates
        values += [
            pl.Series(feature.name, rates_over_time(*every)[0]),
            pl.Series(TRAIN_VALUE.format(feature.name), of_pairs).fill_nan(None),
        ]
        ends = ends.with_columns(
            pl.Series(f"shows.{feature.name}", counts.shows),
            pl.Series(f"likes.{feature.name}", counts.likes),
        )
    sent = partial.select(pl.col(FROM).alias(TO), ITEM, BUCKET)
    sent = sent.with_columns(column.gather(partial[PAIR]) for column in values)
    sent = sent.sort(TO, ITEM, BUCKET)
    return sent.with_columns(ids.gather(sent[ITEM]).alias("item_id")).drop(ITEM), ends


def _events(pairs: pl.DataFrame, ids: pl.Series, prefix: str) -> Events:
    return Events(
        ids,
        pairs[ITEM].cast(pl.Int64).to_numpy(),
        pairs[BUCKET].to_numpy(),
        pairs[f"{prefix}shows"].to_numpy(),
        pairs[f"{prefix}likes"].to_numpy(),
    )


def _totals(of_all: pl.DataFrame, prefix: str) -> Totals:
    counted = of_all.filter(pl.col(f"{prefix}shows") > 0.0)
    columns = counted[BUCKET], counted[f"{prefix}shows"], counted[f"{prefix}likes"]
    return Totals(*(column.to_numpy() for column in columns))


def _rate_by_fold(
    partial: pl.DataFrame, plan: Plan, of_all: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the values of items out of each fold for each piece, and the counts of train."""
    keys = ["item_id", "fold"]
    counts = partial.group_by(keys).agg(pl.col("shows", "likes").sum()).sort(keys)
    values = counts.select(keys)
    sums = counts.group_by("item_id").agg(pl.col("shows", "likes").sum()).sort("item_id")
    ends = sums.select("item_id")
    for feature in plan.statistics:
        strength = feature.prior_strength
        out_of_fold = statistics.out_of_fold_like_rates(counts, strength, of_all)
        values = values.with_columns(out_of_fold["value"].alias(feature.name))
        ends = ends.with_columns(
            sums["shows"].cast(pl.Float64).alias(f"shows.{feature.name}"),
            sums["likes"].cast(pl.Float64).alias(f"likes.{feature.name}"),
        )
    sent = partial.select(*keys, pl.col(FROM).alias(TO))
    return sent.join(values, on=keys, how="left").sort(TO, *keys), ends
