"""Collect the lists of a shard, check them, and divide them into train, valid and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from model.data import labels
from model.data.log_splits import Division
from model.data.scan import ROW
from model.data.shards.parts import DealtLog
from model.data.users import is_anonymous

REQUESTS, USERS = "requests.parquet", "users.parquet"
PIECE = "__piece"  # number of the run of lists that becomes one file
ROWS_AT_ONCE = 1 << 22  # rows whose lists are collected at the same time
FEW = 3  # distinct labels that are reported: more than two are grades


def collect(directory: Path, log: DealtLog, shard: int) -> dict[str, Any]:
    """Write the lists and users of a shard, and return counts and the ids that break a rule."""
    rows = log.shard(shard)
    (total,) = rows.select(pl.len()).collect(engine="streaming").row(0)
    parts = max(1, -(-total // ROWS_AT_ONCE))
    residue = pl.col("request_id").hash() % parts
    collected = [
        _lists(rows if parts == 1 else rows.filter(residue == part), log) for part in range(parts)
    ]
    lists = pl.concat(collected).sort("timestamp", "request_id" if log.timed else ROW)
    lists.drop("broken", ROW).write_parquet(directory / REQUESTS)
    users = _users(rows, log)
    kept = ~is_anonymous()
    features = log.features("user")
    if features:
        kept |= pl.any_horizontal(pl.col(name).is_not_null() for name in features)
    users.filter(kept).drop("broken").sort("user_id").write_parquet(directory / USERS)
    broken = lists.filter("broken")
    lacking = [*log.features("item"), *features]
    nulls = rows.select(pl.col(lacking).null_count()).collect(engine="streaming")
    distinct = rows.select(pl.col("label").unique()).collect(engine="streaming")["label"]
    return {
        "rows": total,
        "lists": len(lists),
        "anonymous": int(lists.select(is_anonymous().sum()).item()),
        "first": lists["timestamp"].min(),
        "last": lists["timestamp"].max(),
        "labels": distinct.sort().head(FEW).to_list(),
        "nulls": nulls.row(0, named=True) if lacking else {},
        "broken_requests": broken["request_id"].to_list(),
        "broken_users": users.filter("broken")["user_id"].to_list(),
    }


def _lists(rows: pl.LazyFrame, log: DealtLog) -> pl.DataFrame:
    """Return one row per list, and where it breaks a rule about its rows."""
    scale = log.schema.label
    contexts = [f.name for f in log.schema.features if f.of == "context" and f.name in log.columns]
    single = ["user_id", *(["split"] if "split" in log.columns else ()), *contexts]
    repeats = [pl.col(name).n_unique() < pl.len() for name in ("item_id", "position")]
    mixed = [pl.col(name).n_unique() > 1 for name in single]
    gain = labels.gain(scale)
    time = pl.col("timestamp" if log.timed else ROW).min().cast(pl.Int64)
    kept = ["user_id", *(["split"] if "split" in log.columns else ())]
    return (
        rows.group_by("request_id")
        .agg(
            pl.col(kept).first(),
            time.alias("timestamp"),
            pl.col(ROW).min(),
            rows=pl.len(),
            positives=labels.is_positive(scale).sum(),
            rankable=gain.min() < gain.max(),
            broken=pl.any_horizontal(*repeats, *mixed),
        )
        .collect(engine="streaming")
    )


def _users(rows: pl.LazyFrame, log: DealtLog) -> pl.DataFrame:
    """Return one row per user with the features that the log gives, and where it breaks a rule."""
    names = log.features("user")
    needed = [f.name for f in log.schema.features if f.name in names and f.required]
    stated = [pl.col(name).drop_nulls() for name in names]
    mixed = [value.n_unique() > 1 for value in stated]
    absent = [pl.col(name).is_not_null().any().not_() for name in needed]
    return (
        rows.group_by("user_id")
        .agg(
            *(value.first() for value in stated),
            broken=pl.any_horizontal(pl.lit(False), *mixed, *absent),
        )
        .collect(engine="streaming")
    )


def divide(directory: Path, collected: Path, division: Division, piece_rows: int) -> dict[str, Any]:
    """Write the lists of a shard with their splits and pieces, and return counts of each split.

    Args:
        piece_rows: rows of a piece.
    """
    lists = division.apply(pl.read_parquet(collected / REQUESTS))
    piece = (pl.col("rows").cum_sum() - 1) // piece_rows
    lists = lists.with_columns(piece.cast(pl.UInt32).alias(PIECE))
    # A long list may reach over the end of a piece and leave a number out.
    lists = lists.with_columns(pl.col(PIECE).rank("dense") - 1)
    lists.write_parquet(directory / REQUESTS)
    counts = lists.group_by("split").agg(
        requests=pl.len(),
        users=pl.col("user_id").n_unique(),
        rows=pl.col("rows").sum(),
        positives=pl.col("positives").sum(),
        all_negative_lists=(pl.col("positives") == 0).sum(),
        all_positive_lists=(pl.col("positives") == pl.col("rows")).sum(),
        rankable=pl.col("rankable").sum(),
        longest=pl.col("rows").max(),
        first=pl.col("timestamp").min(),
        last=pl.col("timestamp").max(),
    )
    return {
        "pieces": int(lists[PIECE].max() + 1) if len(lists) else 0,  # type: ignore[operator]
        "splits": {row.pop("split"): row for row in counts.sort("split").to_dicts()},
    }


def users_in(lists: Sequence[Path]) -> pl.Series:
    """Return the users of all lists, each once."""
    users = pl.scan_parquet([path / REQUESTS for path in lists]).select("user_id").unique()
    return users.collect(engine="streaming")["user_id"]
