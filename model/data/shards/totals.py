"""Counts over all pieces: totals of statistics, folds of train lists, and rates of all items."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from model.data import statistics
from model.data.rated_rows import BUCKET, RatedCounts
from model.data.rates import Events, Totals, rates_over_time
from model.data.scan import ROW
from model.data.shards.counts import COUNTS, FOLDS, TOTALS, events_name
from model.data.shards.items import LIKES
from model.data.shards.plan import Plan
from model.data.shards.requests import REQUESTS
from model.data.shards.stages import Stages
from service.engine.features.rates import log_odds, prior_rate
from service.engine.features.snapshot import StatisticCounts

SHARD = "__shard"


def merge_totals(counted: Sequence[Path], directory: Path, plan: Plan) -> None:
    """Add up the counts of all pieces over all items, by time bucket or by fold."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    tables: list[tuple[str, str, Sequence[str]]] = [
        (events_name(width), BUCKET, COUNTS) for width in plan.widths()
    ]
    if plan.folds and plan.statistics:
        tables.append((FOLDS, "fold", ("shows", "likes")))
    for name, key, columns in tables:
        parts = pl.scan_parquet([path / f"{TOTALS}-{name}" for path in counted])
        summed = parts.group_by(key).agg(pl.col(columns).sum()).sort(key)
        summed.collect(engine="streaming").write_parquet(directory / name)


def fold_lists(lists: Sequence[Path], timed: bool, stages: Stages) -> list[Path]:
    """Write the fold of each train list beside the lists of its shard, null for other lists.

    Folds are drawn for the train lists in the order of the whole log, so the number of shards does
    not change them. This takes a few bytes of memory for each list.
    """
    directory = stages.directory / "folds"
    shutil.rmtree(directory, ignore_errors=True)
    order = ["timestamp", *(["request_id"] if timed else [])]
    every = pl.concat(
        pl.read_parquet(path / REQUESTS, columns=[*order, "split"])
        .with_row_index(ROW)
        .with_columns(pl.lit(shard, pl.UInt32).alias(SHARD))
        for shard, path in enumerate(lists)
    )
    train = every.filter(pl.col("split") == "train").sort(order).select(SHARD, ROW)
    folds = train.with_columns(pl.Series("fold", statistics.folds(len(train))))
    of_lists = every.select(SHARD, ROW).join(
        folds, on=[SHARD, ROW], how="left", maintain_order="left"
    )
    paths = [directory / path.name for path in lists]
    starts = np.cumsum([0, *(int((every[SHARD] == shard).sum()) for shard in range(len(lists)))])
    for path, start, stop in zip(paths, starts[:-1], starts[1:], strict=True):
        path.mkdir(parents=True)
        of_lists[int(start) : int(stop)].select("fold").write_parquet(path / REQUESTS)
    return paths


def rate_items(
    items: pl.DataFrame, plan: Plan, merged: Sequence[Path], totals: Path
) -> tuple[pl.DataFrame, RatedCounts]:
    """Return items with the statistics of all train lists, and the counts behind them."""
    features = plan.statistics
    if not features:
        return items, (pl.Series("item_id", [], pl.String), {})
    likes = pl.read_parquet([path / LIKES for path in merged]).sort("item_id")
    every = items.select("item_id").join(likes, on="item_id", how="full", coalesce=True)
    every = every.sort("item_id").fill_null(0.0)
    counts: dict[str, StatisticCounts] = {}
    clocks = plan.clocks()
    for feature in features:
        name, strength = feature.name, feature.prior_strength
        shows, likes_of = (every[f"{kind}.{name}"].to_numpy() for kind in ("shows", "likes"))
        if name in clocks:
            ends = _ends(plan, name, totals)
            counts[name] = dataclasses.replace(ends, shows=shows, likes=likes_of)
            prior = prior_rate(counts[name].all_likes, counts[name].all_shows)
            values = log_odds(counts[name].likes, counts[name].shows, prior, strength)
            table = pl.DataFrame({"item_id": every["item_id"], name: values})
            items = items.join(table, on="item_id", how="left", maintain_order="left")
        else:
            sums = float(shows.sum()), float(likes_of.sum())
            counts[name] = StatisticCounts(shows, likes_of, *sums)
            folds = pl.read_parquet(totals / FOLDS)
            train = likes.select("item_id", shows=f"shows.{name}", likes=f"likes.{name}")
            rates, unseen = statistics.like_rates(train, strength, folds)
            rates = rates.rename({"value": name})
            items = items.join(rates, on="item_id", how="left", maintain_order="left")
            items = items.with_columns(pl.col(name).fill_null(unseen))
    return items, (every["item_id"], counts)


def _ends(plan: Plan, name: str, totals: Path) -> StatisticCounts:
    """Return the counts of all items together at the moment, and of no single item."""
    clock = plan.clocks()[name]
    counted = pl.read_parquet(totals / events_name(clock.bucket))
    counted = counted.filter(pl.col("train_shows") > 0.0)
    of_all = Totals(*(counted[c].to_numpy() for c in (BUCKET, "train_shows", "train_likes")))
    none, numbers = np.zeros(0), np.zeros(0, np.int64)
    no_events = Events(pl.Series([], dtype=pl.String), numbers, numbers, none, none)
    return rates_over_time(no_events, clock, 1.0, of_all)[1]
