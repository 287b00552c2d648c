"""Write raw logs of any length, in files of a million rows, with a table of their items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from model.study.random_log import GENRES

CANDIDATES = 25
ROWS_PER_FILE = 1_000_000
START, DAYS = 1_700_000_000_000, 90  # time of the first list in ms, and the time of the log
SCHEMA = """
name: long
history: {limit: 128, kernels: [genres], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic, relative: true}
  - {name: length, of: item, kind: number, transform: log, relative: true}
  - {name: genres, of: item, kind: categories, width: 3}
  - {name: price, of: candidate, kind: number, relative: true}
  - {name: hour, of: context, kind: category}
"""


def write_long_log(
    directory: Path, rows: int, users: int, items: int, seed: int = 0, genres: int = GENRES
) -> None:
    """Write `log/*.parquet`, items.parquet and schema.yaml; the same bytes per seed.

    The lists of a user lie anywhere in the log, and small item numbers are more popular.

    Args:
        genres: values of the category that the history kernel compares.
    """
    draw = np.random.default_rng(seed)
    (directory / "log").mkdir(parents=True)
    (directory / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    genres_of = draw.integers(genres, size=(items, 2)).astype(str)
    table = {
        "item_id": [f"i{number:07d}" for number in range(items)],
        "length": draw.lognormal(3.0, 1.0, items),
        "genres": genres_of.tolist(),
    }
    pl.DataFrame(table).write_parquet(directory / "items.parquet")
    lists, per_file = rows // CANDIDATES, ROWS_PER_FILE // CANDIDATES
    step = DAYS * 86_400_000 // max(lists, 1)
    for start in range(0, lists, per_file):
        number = np.arange(start, min(lists, start + per_file))
        frame = _draw_rows(draw, number, step, users, items)
        frame.write_parquet(directory / "log" / f"{start // per_file:06d}.parquet")


def _draw_rows(
    draw: np.random.Generator, number: np.ndarray, step: int, users: int, items: int
) -> pl.DataFrame:
    """Draw the rows of the lists int64 [R] with these numbers, `step` ms apart."""
    shape = len(number), CANDIDATES
    first = draw.integers(items, size=(len(number), 1))
    item = (first * first // items + 7 * np.arange(CANDIDATES)) % items
    per_list = {
        "request_id": pl.Series(number).cast(pl.String),
        "user_id": "u" + pl.Series(draw.integers(users, size=len(number))).cast(pl.String),
        "timestamp": START + number * step,
        "hour": pl.Series(draw.integers(24, size=len(number))).cast(pl.String),
    }
    frame = pl.DataFrame(per_list).select(pl.all().repeat_by(CANDIDATES).explode())
    return frame.with_columns(
        position=pl.Series(np.tile(np.arange(CANDIDATES, dtype=np.int32), len(number))),
        item_id="i" + pl.Series(item.ravel()).cast(pl.String).str.zfill(7),
        label=pl.Series((draw.random(shape) < 0.2).ravel().astype(np.int8)),
        price=pl.Series(draw.lognormal(2.0, 1.0, shape).ravel()),
    )
