"""Write a canonical data set whose likes depend on the identity of each item."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from model.data.layout import COLUMNS

CANDIDATES = 25
USERS = 1000
VALID = 2048  # lists, by default
LISTS_PER_PART = 1 << 14  # drawn and written at once
SECOND_MS = 1000  # lists follow each other in seconds
SCHEMA = """
name: identifiers
features:
  - {name: item_id, of: item, kind: identifier%s}
  - {name: length, of: item, kind: number}
  - {name: hour, of: context, kind: category}
"""


def write_identifier_log(
    directory: Path,
    items: int,
    rows: int,
    first: int = 0,
    valid: int = VALID,
    buckets: int | None = None,
    seed: int = 0,
) -> None:
    """Write `rows` rows over about `items` items, each with an appeal that only its id reveals.

    Popularity falls as the inverse root of the rank. The first lists are valid, the others train.

    Args:
        first: number of the first item. An item has the same appeal in every log.
        valid: number of valid lists.
    """
    draw = np.random.default_rng((seed, first))
    items = items // CANDIDATES * CANDIDATES
    appeal = np.random.default_rng(0).standard_normal(first + items)[first:]
    length = np.random.default_rng(1).standard_normal(first + items)[first:]
    directory.mkdir(parents=True)
    hashed = "" if buckets is None else f", buckets: {buckets}"
    (directory / "schema.yaml").write_text(SCHEMA % hashed, encoding="utf-8")
    ids = pl.Series([f"i{number:07d}" for number in range(first, first + items)])
    pl.DataFrame({"item_id": ids, "length": length}).write_parquet(directory / "items.parquet")
    users = pl.Series([f"u{number:04d}" for number in range(USERS)])
    pl.DataFrame({"user_id": users}).write_parquet(directory / "users.parquet")
    parts = directory / "parts"
    parts.mkdir()
    lists = rows // CANDIDATES
    for start in range(0, lists, LISTS_PER_PART):
        numbers = np.arange(start, min(lists, start + LISTS_PER_PART))
        # Distinct items: candidate k of a list is one of every CANDIDATES-th item.
        strata = (draw.random((len(numbers), CANDIDATES)) ** 2 * (items // CANDIDATES)).astype(int)
        item = strata * CANDIDATES + np.arange(CANDIDATES)
        like = 1.0 / (1.0 + np.exp(1.0 - appeal[item] - 0.5 * length[item]))
        repeated = np.repeat(numbers, CANDIDATES)
        frame = pl.DataFrame(
            {
                "request_id": pl.Series(repeated).cast(pl.String),
                "user_id": users[repeated % USERS],
                "timestamp": repeated * SECOND_MS,
                "position": np.tile(np.arange(CANDIDATES, dtype=np.int32), len(numbers)),
                "item_id": ids[item.ravel()],
                "label": (draw.random(item.shape) < like).ravel().astype(np.float32),
                "split": pl.Series(np.where(repeated < valid, "valid", "train")),
                "hour": pl.Series(draw.integers(24, size=len(numbers))).cast(pl.String)[
                    np.repeat(np.arange(len(numbers)), CANDIDATES)
                ],
            }
        )
        frame.select(*COLUMNS, "hour").write_parquet(parts / f"{start:012d}.parquet")
    pl.scan_parquet(parts / "*.parquet").sink_parquet(
        directory / "impressions.parquet", row_group_size=1 << 18
    )
    shutil.rmtree(parts)
