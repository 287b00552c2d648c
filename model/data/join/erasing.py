"""Remove the lists of deleted users from the files of a join."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from model.data.join.durable import move, remove
from model.data.join.tables import CANDIDATES, HISTORIES, IMPRESSIONS, REQUESTS, USERS

LATEST = (1 << 63) - 1  # ms; of a user whose lists of all times are removed


def covered(frame: pl.LazyFrame, time: str, erased: Mapping[str, int]) -> pl.LazyFrame:
    """Return a frame with the column `covered`: the row is of a user that was deleted after it.

    Args:
        time: the column of the row's time in ms.
        erased: the moment in ms up to which the rows of each user are covered.
    """
    users = pl.LazyFrame(
        {"user_id": list(erased), "until": list(erased.values())},
        schema={"user_id": pl.String, "until": pl.Int64},
    )
    marked = frame.join(users, on="user_id", how="left", maintain_order="left")
    is_covered = (pl.col(time) <= pl.col("until")).fill_null(False)
    return marked.with_columns(is_covered.alias("covered")).drop("until")


def without_erased(frame: pl.LazyFrame, time: str, erased: Mapping[str, int]) -> pl.LazyFrame:
    """Return the rows that are not covered; arguments as of `covered`."""
    if not erased:
        return frame
    return covered(frame, time, erased).filter(~pl.col("covered")).drop("covered")


def forget(out: Path, erased: Mapping[str, int]) -> int:
    """Remove the lists of deleted users from all parts, and return the number of lists.

    Killed at any moment, it leaves each file as it was or as it will be, and a repetition goes on.
    So does a power loss, because a file is durable before the next one changes.

    erased: last moment in ms of each user's lists to remove.
    """
    removed = 0
    for path in sorted((out / REQUESTS).glob("*.parquet")) if erased else ():
        lists = covered(pl.scan_parquet(path), "timestamp", erased).filter(pl.col("covered"))
        ids = lists.select("request_id").collect()
        if ids.is_empty():
            continue
        removed += len(ids)
        users = out / USERS / path.name
        if users.exists():
            _replace(users, without_erased(pl.read_parquet(users).lazy(), "timestamp", erased))
        for table in (
            IMPRESSIONS,
            CANDIDATES,
            HISTORIES,
            REQUESTS,
        ):  # the last one leads to the others
            file = out / table / path.name
            if file.exists():
                rest = pl.scan_parquet(file).join(
                    ids.lazy(), on="request_id", how="anti", maintain_order="left"
                )
                _replace(file, rest)
    return removed


def _replace(path: Path, rows: pl.LazyFrame) -> None:
    """Replace a file atomically and durably by some of its rows; delete it if there are none."""
    scratch = path.with_name(f"{path.name}.tmp")
    rows.sink_parquet(scratch)
    if pl.scan_parquet(scratch).select(pl.len()).collect().item():
        move(scratch, path)
    else:
        remove(path)
        scratch.unlink()
