"""Random logs, and data sets of them in one file and in shards."""

from pathlib import Path

import numpy as np
import polars as pl

from model.data.shard_files import read_shards

MINUTE = 60_000
SCHEMA = """
name: shop
label: {range: [0, 1]}
history: {limit: 16, kernels: [genres], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic, prior_strength: 10, relative: true}
  - {name: genres, of: item, kind: categories, width: 3}
  - {name: stock, of: item, kind: number}
  - {name: price, of: candidate, kind: number, transform: log}
  - {name: hour, of: context, kind: category}
  - {name: age, of: user, kind: number}
"""
CANDIDATES = 5
ITEMS = 40


def random_log(lists: int = 120, minutes: int = 10, seed: int = 0) -> pl.DataFrame:
    """Return a log whose rows are in no order; two lists in a row have one time.

    A tenth of the lists has no user, and `stock` is null in half of the rows.

    Args:
        minutes: between lists.
    """
    draw = np.random.default_rng(seed)
    number = np.arange(lists)
    users = [None if draw.random() < 0.1 else f"u{draw.integers(25)}" for _ in number]
    item = (draw.integers(ITEMS, size=(lists, 1)) + 7 * np.arange(CANDIDATES)) % ITEMS
    rows = lists * CANDIDATES
    per_list = pl.DataFrame(
        {
            "request_id": [f"r{n}" for n in number],
            "user_id": users,
            "timestamp": 1_700_000_000_000 + number // 2 * 2 * minutes * MINUTE,
            "hour": [str(n % 24) for n in number],
            "age": [None if user is None else float(user[1:]) for user in users],
        }
    )
    frame = per_list.select(pl.all().repeat_by(CANDIDATES).explode()).with_columns(
        position=pl.Series(np.tile(np.arange(CANDIDATES), lists)),
        item_id=pl.Series([f"i{i}" for i in item.ravel()]),
        label=pl.Series((draw.random(rows) < 0.3).astype(np.int64)),
        price=pl.Series(draw.lognormal(2.0, 1.0, rows)),
        stock=pl.Series([float(draw.integers(9)) if draw.random() < 0.5 else None
                         for _ in range(rows)]),
        genres=pl.Series([[f"g{i % 5}", f"g{i % 3}"] for i in item.ravel()]),
    )  # fmt: skip
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


def impressions(directory: Path) -> pl.DataFrame:
    """Return the rows of a data set in the order of one file."""
    shards = read_shards(directory)
    if not shards:
        return pl.read_parquet(directory / "impressions.parquet")
    rows = pl.concat(shard.scan(directory).collect() for shard in shards)
    # Every list of random_log has its time; those without timestamps have the number of a row.
    return rows.sort("timestamp", "request_id", "position")


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the tables in which two data sets differ."""
    names = ["items.parquet", "users.parquet", "statistics.parquet", "summary.json", "schema.yaml"]
    unequal = [name for name in names if _content(one / name) != _content(other / name)]
    rows = impressions(one), impressions(other)
    if rows[0].schema != rows[1].schema or not rows[0].equals(rows[1], null_equal=True):
        unequal.append("impressions")
    return unequal


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
