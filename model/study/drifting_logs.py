"""Logs of other kinds of change than `model.study.moving_items`, to measure laws of statistics.

Each writes log.parquet and schema.yaml, and perhaps items.parquet, for `python -m model prepare
impressions`. The same seed gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from model.data.errors import DataError
from model.data.ranklens import read_ranklens
from model.data.schemas import SCHEMAS, load_schema
from model.study.moving_items import BEGIN, DAY_MS, SCHEMA, SHOWN

Array = np.ndarray[Any, Any]
GENRES = 12
GENRES_FEATURE = "  - {name: genres, of: item, kind: categories, width: 4}\n"
RATINGS = {"user_id": 0, "item_id": 1, "rating": 2, "timestamp": 3}  # columns of ml-100k.inter


def write_growing_items(directory: Path, seed: int) -> None:
    """Write a log in which each item's appeal grows or falls steadily over 40 days.

    300 items, 4,000 lists of as many users. The slopes of the log-odds are normal.
    """
    draw = np.random.default_rng(seed)
    items, lists, days = 300, 4000, 40
    slope, level = draw.normal(0.0, 3.0, items), draw.normal(-1.0, 0.5, items)
    day = np.sort(draw.random(lists)) * days
    slates = _draw_slates(draw, lists, items)
    appeal = level[slates] + slope[slates] * (day[:, None] / days - 0.5)
    _write(directory, "growing", _rows(draw, day, np.arange(lists), slates, appeal))


def write_repriced_items(directory: Path, seed: int) -> None:
    """Write a log in which a tenth of 200 items gets another price every half day.

    Users like what is cheap. 4,000 lists over 20 days.
    """
    draw = np.random.default_rng(seed)
    items, lists, days = 200, 4000, 20
    prices = np.repeat(draw.lognormal(2.0, 0.5, items)[None], 2 * days, axis=0)
    moving = draw.choice(items, items // 10, replace=False)
    prices[:, moving] = draw.lognormal(2.0, 0.8, (2 * days, len(moving)))
    day = np.sort(draw.random(lists)) * days
    slates = _draw_slates(draw, lists, items)
    price = prices[(2 * day).astype(int)[:, None], slates]
    appeal = 3.0 - 2.0 * np.log(price)
    rows = _rows(draw, day, draw.integers(0, 400, lists), slates, appeal)
    feature = "  - {name: price, of: item, kind: number, transform: log, relative: true}\n"
    _write(directory, "repriced", rows.with_columns(price=price.ravel()), feature)


def write_months_of_users(directory: Path, seed: int) -> None:
    """Write a log like MovieLens-100K: users come over seven months and rate in one sitting.

    800 users of three to ten lists, 600 items with a genre that users like or not. Qualities stay.
    """
    draw = np.random.default_rng(seed)
    items, users, days = 600, 800, 210
    quality, genre = draw.normal(0.0, 1.0, items), draw.integers(0, GENRES, items)
    taste = draw.normal(0.0, 1.0, (users, GENRES))
    visits = draw.integers(3, 11, users)
    user = np.repeat(np.arange(users), visits)
    minutes = np.concatenate([np.arange(count) for count in visits])
    day = np.repeat(draw.random(users) * days, visits) + minutes / 1440
    popular = draw.lognormal(0.0, 1.0, items)
    slates = _draw_slates(draw, len(user), items, popular)
    appeal = -0.5 + quality[slates] + taste[user[:, None], genre[slates]]
    rows = _rows(draw, day, user, slates, appeal)
    genres = pl.Series([f"g{number}" for number in genre[slates].ravel()])
    _write(directory, "months", rows.with_columns(genres=genres), GENRES_FEATURE, "[genres]")


def write_ranklens(directory: Path, events: Path) -> None:
    """Write RankLens as a log of one list a minute, in the order of its times.

    The last tenth of its 20 minutes has too few lists to measure.
    """
    path = SCHEMAS / "ranklens.yaml"
    source = read_ranklens(events, load_schema(path), None)
    directory.mkdir(parents=True, exist_ok=True)
    minute = BEGIN + 60_000 * pl.int_range(pl.len(), dtype=pl.Int64)
    times = source.requests.select("request_id", timestamp=minute)
    rows = source.rows.collect().join(times, on="request_id", maintain_order="left")
    rows.write_parquet(directory / "log.parquet")
    source.items.write_parquet(directory / "items.parquet")
    (directory / "schema.yaml").write_bytes(path.read_bytes())


def write_ratings(directory: Path, ratings: Path) -> None:
    """Write ratings of films as lists: ten consecutive ratings of a user, 4 and 5 are likes.

    The file is tab-separated with user, item, rating and seconds; a header is skipped. Shorter
    rests of a user are dropped. Raises DataError for a file that cannot be read so.
    """
    try:
        table = pl.read_csv(ratings, separator="\t", has_header=False, infer_schema=False)
        frame = table.select(
            pl.col(table.columns[column]).alias(name) for name, column in RATINGS.items()
        )
    except (OSError, IndexError, pl.exceptions.PolarsError) as error:
        raise DataError(ratings, f"cannot be read ({str(error).splitlines()[0]})") from None
    numbers = frame.with_columns(pl.col("rating", "timestamp").cast(pl.Float64, strict=False))
    numbers = numbers.drop_nulls().sort("user_id", "timestamp", "item_id")
    index = pl.int_range(pl.len()).over("user_id")
    cut = numbers.with_columns(number=index // SHOWN, position=index % SHOWN)
    cut = cut.filter(pl.len().over("user_id", "number") == SHOWN)
    log = cut.select(
        pl.format("{}-{}", "user_id", "number").alias("request_id"),
        "user_id",
        (pl.col("timestamp") * 1000).cast(pl.Int64),
        "position",
        "item_id",
        label=(pl.col("rating") >= 4.0).cast(pl.Int64),
    )
    _write(directory, "ratings", log)


def _draw_slates(
    draw: np.random.Generator, lists: int, items: int, weight: Array | None = None
) -> Array:
    """Draw SHOWN distinct items per list, int64 [R, SHOWN], in proportion to weight [I]."""
    noise = draw.gumbel(size=(lists, items))
    if weight is not None:
        noise += np.log(weight)
    return np.argsort(-noise, axis=1)[:, :SHOWN]


def _rows(
    draw: np.random.Generator, day: Array, user: Array, shown_items: Array, appeal: Array
) -> pl.DataFrame:
    """Return a row per list and candidate; appeal [R, SHOWN] is the log-odds of a like."""
    number = np.repeat(np.arange(len(day)), SHOWN)
    return pl.DataFrame(
        {
            "request_id": [f"r{i}" for i in number],
            "user_id": [f"u{i}" for i in user[number]],
            "timestamp": BEGIN + (day[number] * DAY_MS).astype(np.int64),
            "position": np.tile(np.arange(SHOWN), len(day)),
            "item_id": [f"i{i}" for i in shown_items.ravel()],
            "label": (draw.random(appeal.size) < 1 / (1 + np.exp(-appeal.ravel()))).astype(int),
        }
    )


def _write(
    directory: Path, name: str, rows: pl.DataFrame, features: str = "", kernels: str = "[]"
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(directory / "log.parquet")
    schema = SCHEMA.format(name=name).replace("kernels: []", f"kernels: {kernels}")
    (directory / "schema.yaml").write_text(schema + features, encoding="utf-8")


DRIFTING: dict[str, Callable[[Path, int], None]] = {
    "growing items": write_growing_items,
    "repriced items": write_repriced_items,
    "months of users": write_months_of_users,
}
