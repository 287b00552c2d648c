"""Count the values of hashed features that share a bucket with another value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from model.data.shard_files import impression_files
from service.engine.features.hashing import Buckets
from service.engine.features.schema import Feature, Schema

TABLES = {"item": "items.parquet", "user": "users.parquet"}
Counts = Mapping[str, Mapping[str, int]]


def count_collisions(directory: Path, schema: Schema) -> dict[str, dict[str, int]]:
    """Return values, buckets and values that share a bucket, of each hashed feature.

    Values of the table of items or users count, and those of the log.
    """
    counts = {}
    for feature in schema.features:
        if feature.buckets is None:
            continue
        values = _distinct(directory, feature)
        buckets = Buckets(feature.buckets).find(values)
        sizes = np.bincount(buckets)
        shared = int((sizes[buckets] > 1).sum())
        counts[feature.name] = {
            "values": len(values),
            "buckets": feature.buckets,
            "shared": shared,
        }
    return counts


def _distinct(directory: Path, feature: Feature) -> list[str]:
    frames = [pl.scan_parquet(impression_files(directory))]
    if feature.of in TABLES:
        frames.append(pl.scan_parquet(directory / TABLES[feature.of]))
    columns = [
        frame.select(pl.col(feature.name).cast(pl.String)).drop_nulls().unique()
        for frame in frames
        if feature.name in frame.collect_schema().names()
    ]
    if not columns:
        return []
    values = pl.concat(columns).unique().collect(engine="streaming")[feature.name]
    return sorted(values.to_list())


def describe_collisions(counts: Counts) -> Iterator[str]:
    """Yield a line for each hashed feature."""
    for name, count in counts.items():
        share = count["shared"] / max(count["values"], 1)
        yield (
            f"{name}: {count['shared']:,} of {count['values']:,} values ({share:.1%}) share one of "
            f"{count['buckets']:,} buckets"
        )
