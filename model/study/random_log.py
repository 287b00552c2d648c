"""Write a canonical data set with random lists, of any size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from model.data.moment import RECORD, SUMMARY, Moment

CANDIDATES = 25
LISTS_PER_USER = 10
ITEMS = 20_000
GENRES = 24
TAGS = 32  # numbers of an item's tag vector
SECOND_MS = 1000  # lists follow each other in seconds
VALID = 256  # lists: enough for a threshold
LISTS_PER_PART = (1 << 18) // CANDIDATES  # drawn and written at once
SCHEMA = f"""
name: scale
history: {{limit: 128, kernels: [genres, tags], rate: like_rate}}
features:
  - {{name: like_rate, of: item, kind: statistic, relative: true}}
  - {{name: length, of: item, kind: number, transform: log, relative: true}}
  - {{name: genres, of: item, kind: categories, width: 3}}
  - {{name: tags, of: item, kind: vector, width: {TAGS}}}
  - {{name: price, of: candidate, kind: number, relative: true}}
  - {{name: hour, of: context, kind: category}}
"""


def write_log(
    directory: Path, rows: int, count: int = ITEMS, seed: int = 0, tests: int | None = None
) -> None:
    """Write a canonical data set of `rows` rows over `count` items; the same bytes per seed.

    Every user's first list precedes every user's second, and so on: the lists of a user lie far
    apart in the file, which is the hard case. VALID lists are valid, the last list of each user is
    test, and the rest train. With `tests`, the last so many lists are test, as in a split by time.
    """
    draw = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    (directory / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    draw_items(draw, count).write_parquet(directory / "items.parquet")
    lists = rows // CANDIDATES
    first_test = None if tests is None else lists - tests
    if first_test is not None:
        record = Moment("time", None, ordered=True)  # rates are drawn, not counted
        text = json.dumps({RECORD: record.to_json()})
        (directory / SUMMARY).write_text(text, encoding="utf-8")
    users = max(1, lists // LISTS_PER_USER)
    pl.DataFrame({"user_id": [f"u{i:07d}" for i in range(users)]}).write_parquet(
        directory / "users.parquet"
    )
    parts = directory / "parts"
    parts.mkdir()
    for start in range(0, lists, LISTS_PER_PART):
        number = np.arange(start, min(lists, start + LISTS_PER_PART))
        draw_lists(draw, number, users, count, first_test).write_parquet(
            parts / f"{start:012d}.parquet"
        )
    pl.scan_parquet(parts / "*.parquet").sink_parquet(
        directory / "impressions.parquet", row_group_size=1 << 18
    )
    shutil.rmtree(parts)


def draw_items(draw: np.random.Generator, count: int) -> pl.DataFrame:
    """Draw the item table, one row per item."""
    genres = draw.integers(GENRES, size=(count, 2)).astype(str)
    return pl.DataFrame(
        {
            "item_id": [f"i{i:05d}" for i in range(count)],
            "like_rate": draw.normal(-1.0, 0.5, count),
            "length": draw.lognormal(3.0, 1.0, count),
            "genres": genres.tolist(),
            "tags": draw.standard_normal((count, TAGS)).astype(np.float32).tolist(),
        }
    )


def draw_lists(
    draw: np.random.Generator,
    number: np.ndarray[Any, Any],
    users: int,
    count: int,
    first_test: int | None = None,
) -> pl.DataFrame:
    """Draw the rows of the lists int64 [R] with these numbers; list n belongs to user n % users."""
    shape = len(number), CANDIDATES
    # Distinct items without a permutation of them all: the last is less than `count` away.
    step = draw.choice([1, 3, 7, 9, 11, 13, 17, 19, 21, 23], (len(number), 1))
    item = (draw.integers(count, size=(len(number), 1)) + step * np.arange(CANDIDATES)) % count
    visit = number // users
    is_test = visit == LISTS_PER_USER - 1 if first_test is None else number >= first_test
    split = np.where(is_test, "test", "train")
    split = np.where((visit == 0) & (number < VALID), "valid", split)
    per_list = {
        "request_id": pl.Series(number).cast(pl.String),
        "user_id": "u" + pl.Series(number % users).cast(pl.String).str.zfill(7),
        "timestamp": number * SECOND_MS,
        "split": split,
        "hour": pl.Series(draw.integers(24, size=len(number))).cast(pl.String),
    }
    frame = pl.DataFrame(per_list).select(pl.all().repeat_by(CANDIDATES).explode())
    frame = frame.with_columns(
        position=pl.Series(np.tile(np.arange(CANDIDATES, dtype=np.int32), len(number))),
        item_id="i" + pl.Series(item.ravel()).cast(pl.String).str.zfill(5),
        label=pl.Series((draw.random(shape) < 0.2).ravel().astype(np.float32)),
        like_rate=pl.Series(draw.normal(-1.0, 0.5, shape).ravel()),
        price=pl.Series(draw.lognormal(2.0, 1.0, shape).ravel()),
    )
    columns = ["request_id", "user_id", "timestamp", "position", "item_id", "label", "split"]
    return frame.select(*columns, "like_rate", "price", "hour")
