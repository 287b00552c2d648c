"""Fit the statistics of a log with time, and keep the counts behind the item table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data import labels
from model.data.errors import DataError
from model.data.moment import AGAIN, RECORD, SUMMARY, TOTALS, Moment, Totals, read_totals
from model.data.rates import Clock, Events, bucket_of, count_events, rates_over_time
from model.data.source import Source
from service.engine.features.rates import log_odds, prior_rate
from service.engine.features.schema import Feature, Schema
from service.engine.features.snapshot import ARRAYS, SCALARS, Snapshot, StatisticCounts

COUNTS = "statistics.parquet"
BUCKET, TRAIN = "__bucket", "__train"  # helper columns


@dataclass(frozen=True)
class RatedTables:
    """Items and rows with statistics, and the counts of each statistic in the order of `ids`."""

    items: pl.DataFrame
    rows: pl.LazyFrame
    ids: pl.Series
    counts: dict[str, StatisticCounts]


def rate_over_time(
    schema: Schema, source: Source, rows: pl.LazyFrame, moment: Moment
) -> RatedTables:
    """Return the statistics of items as of the moment, and of each row as of its own time.

    A train row counts the train lists of earlier buckets. Any other row counts all lists of earlier
    buckets: the value that a caller with fresh statistics would send.

    Args:
        rows: the rows of the source with timestamp and split.
    """
    assert moment.as_of is not None
    ids = pl.concat([source.items["item_id"], rows.select("item_id").unique().collect()["item_id"]])
    ids = ids.unique().sort()
    is_train = pl.col("split") == "train"
    events = rows.select(
        "item_id", "timestamp", is_train.alias(TRAIN), gain=labels.gain(schema.label)
    )
    train = events.filter(TRAIN)
    first = int(train.select(pl.col("timestamp").min()).collect().item())
    last = int(events.select(pl.col("timestamp").max()).collect().item())
    items, counts = source.items, {}
    rows = rows.with_columns(is_train.alias(TRAIN))
    for feature in _missing_statistics(schema, source):
        clock = Clock.of(feature, first, moment.as_of)
        until = dataclasses.replace(clock, as_of=last)
        strength, keys = feature.prior_strength, ["item_id", BUCKET]
        pairs = count_events(events, ids, clock.bucket)
        table = _value_table(pairs, rates_over_time(pairs, until, strength)[0], feature.name)
        pairs = count_events(train, ids, clock.bucket)
        values, counts[feature.name] = rates_over_time(pairs, clock, strength)
        if not moment.ordered:  # else no other list is earlier than a train list
            of_train = _value_table(pairs, values, feature.name)
            flags = [(table, False), (of_train, True)]
            table = pl.concat(t.with_columns(pl.lit(flag).alias(TRAIN)) for t, flag in flags)
            keys.append(TRAIN)
        rows = rows.with_columns(bucket_of(clock.bucket).alias(BUCKET))
        rows = rows.join(table.lazy(), on=keys, how="left")
        items = _with_rates(items, ids, feature, counts[feature.name])
    return RatedTables(items, rows, ids, counts)


def _missing_statistics(schema: Schema, source: Source) -> list[Feature]:
    return [f for f in schema.features if f.kind == "statistic" and f.name not in source.items]


def _value_table(pairs: Events, values: Any, name: str) -> pl.DataFrame:
    """Return the values of pairs of item and bucket, to join with rows."""
    items = pairs.items.gather(pairs.item)
    return pl.DataFrame({"item_id": items, BUCKET: pairs.bucket, name: values})


def _with_rates(
    items: pl.DataFrame, ids: pl.Series, feature: Feature, counts: StatisticCounts
) -> pl.DataFrame:
    prior = prior_rate(counts.all_likes, counts.all_shows)
    values = log_odds(counts.likes, counts.shows, prior, feature.prior_strength)
    table = pl.DataFrame({"item_id": ids, feature.name: values})
    return items.join(table, on="item_id", how="left", maintain_order="left")


def refuse_memory_without_time(schema: Schema, path: Path) -> None:
    """Raise DataError for a statistic with bucket or half-life, of a log that has no times."""
    for feature in schema.features:
        for name in ("bucket", "half_life"):
            value = getattr(feature, name)
            if value is not None:
                rule = (
                    "needs a log whose timestamps span more than an hour, or --split time; "
                    "remove it"
                )
                raise DataError(path, rule, column=f"features.{feature.name}.{name}", value=value)


def counts_without_time(counts: pl.DataFrame, schema: Schema, source: Source) -> RatedCounts:
    """Return the counts over all train lists as the counts of each statistic.

    Args:
        counts: item_id, shows and likes by fold, from `statistics.like_counts`.
    """
    totals = counts.group_by("item_id").agg(pl.col("shows", "likes").sum()).sort("item_id")
    shows, likes = (totals[name].cast(pl.Float64).to_numpy() for name in ARRAYS)
    every = StatisticCounts(shows, likes, float(shows.sum()), float(likes.sum()))
    return totals["item_id"], {f.name: every for f in _missing_statistics(schema, source)}


RatedCounts = tuple[pl.Series, dict[str, StatisticCounts]]


def write_counts(directory: Path, items: pl.DataFrame, rated: RatedCounts) -> Totals:
    """Write `statistics.parquet`, in the order of the items, and return the totals by statistic."""
    ids, statistics = rated
    if not statistics:
        return {}
    columns = {
        f"{field}.{name}": getattr(counts, field)
        for name, counts in statistics.items()
        for field in ARRAYS
    }
    table = pl.DataFrame({"item_id": ids, **columns})
    aligned = (
        items.select("item_id")
        .sort("item_id")
        .join(table, on="item_id", how="left", maintain_order="left")
    )
    aligned.fill_null(0.0).write_parquet(directory / COUNTS)
    return {
        name: {field: getattr(counts, field) for field in SCALARS}
        for name, counts in statistics.items()
    }


def read_snapshot(directory: Path, moment: Moment | None, items: int) -> Snapshot | None:
    """Return what `write_counts` wrote; None for a data set without counts and moment.

    Args:
        items: number of rows of items.parquet.

    Raises DataError for counts that cannot be read, or that another table or no record belongs to.
    """
    path = directory / COUNTS
    totals_of = read_totals(directory) if moment is None else moment.statistics
    as_of = None if moment is None else moment.as_of
    if moment is None and not totals_of:
        if path.exists():
            rule = f"must have the key {RECORD} or {TOTALS}, as there is {COUNTS}; {AGAIN}"
            raise DataError(directory / SUMMARY, rule)
        return None
    if not totals_of:
        return Snapshot(as_of, {})
    try:
        table = pl.read_parquet(path)
        statistics = {
            name: StatisticCounts(
                table[f"shows.{name}"].to_numpy(), table[f"likes.{name}"].to_numpy(), **totals
            )
            for name, totals in totals_of.items()
        }
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(path, f"cannot be read ({str(error).splitlines()[0]}); {AGAIN}") from None
    if len(table) != items:
        raise DataError(
            path, f"must have the {items:,} rows of items.parquet; {AGAIN}", value=len(table)
        )
    return Snapshot(as_of, statistics)
