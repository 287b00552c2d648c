"""Count the values of hashed features that share a bucket with another value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from model.data.shard_files import impression_files
from model.data.users import is_anonymous
from service.engine.features.hashing import Buckets
from service.engine.features.schema import Feature, Schema

TABLES = {"item": "items.parquet", "user": "users.parquet"}
VALUES_AT_ONCE = 1 << 18  # hashed as strings of Python, which take ten times the room
Counts = Mapping[str, Mapping[str, int]]


def count_collisions(directory: Path, schema: Schema) -> dict[str, dict[str, int]]:
    """Return values, buckets and values that share a bucket, of each hashed feature.

    Values of the table of items or users count, and those of the log.
    """
    counts = {}
    for feature in schema.features:
        if feature.buckets is None:
            continue
        values, buckets = _distinct(directory, feature), Buckets(feature.buckets)
        sizes = np.zeros(len(buckets), np.int64)
        for start in range(0, len(values), VALUES_AT_ONCE):
            part = values.slice(start, VALUES_AT_ONCE).to_list()
            sizes += np.bincount(buckets.find(part), minlength=len(buckets))
        counts[feature.name] = {
            "values": len(values),
            "buckets": feature.buckets,
            "shared": int(sizes[sizes > 1].sum()),
        }
    return counts


def _distinct(directory: Path, feature: Feature) -> pl.Series:
    frames = [pl.scan_parquet(impression_files(directory))]
    if feature.of in TABLES:
        frames.append(pl.scan_parquet(directory / TABLES[feature.of]))
    if feature.name == "user_id":  # lists without a user have none in a request
        frames = [frame.filter(~is_anonymous()) for frame in frames]
    columns = [
        frame.select(pl.col(feature.name).cast(pl.String)).drop_nulls().unique()
        for frame in frames
        if feature.name in frame.collect_schema().names()
    ]
    if not columns:
        return pl.Series(feature.name, [], pl.String)
    return pl.concat(columns).unique().collect(engine="streaming")[feature.name]


def describe_collisions(counts: Counts) -> Iterator[str]:
    """Yield a line for each hashed feature."""
    for name, count in counts.items():
        share = count["shared"] / max(count["values"], 1)
        yield (
            f"{name}: {count['shared']:,} of {count['values']:,} values ({share:.1%}) share one of "
            f"{count['buckets']:,} buckets"
        )
