"""Report the lists and users of a dealt log that break a rule, and leave their rows out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from model.data.log_checks import check_lists, check_users
from model.data.opened_log import OpenedLog
from model.data.scan import ROW
from model.data.shards.parts import DealtLog
from model.data.shards.requests import REQUESTS
from model.data.users import is_anonymous, name_users

DROPPED = "dropped-{}.parquet"  # by the number of checks that left rows out


class BrokenRows:
    """The rows of a dealt log that rules about several rows, or about a column, forbid.

    Only the rows of broken lists and users are read by the checks of the whole log, which name
    them. So their memory does not grow with the log.
    """

    def __init__(self, opened: OpenedLog, log: DealtLog, scratch: Path) -> None:
        self._opened, self._log, self._scratch = opened, log, scratch
        self._dropped: list[pl.Series] = []

    def drop_extremes(self) -> DealtLog:
        """Leave out rows that hold absurd numbers, and return the log."""
        before = len(self._opened.checks.report.broken)
        kept = self._opened.check_extremes(self._log.rows())
        if len(self._opened.checks.report.broken) > before:
            self._drop(self._log.rows(), kept)
        return self.log()

    def drop_lists(self, requests: Iterable[str]) -> None:
        """Check the lists with these ids."""
        ids = pl.Series("request_id", [*requests], pl.String)
        if ids.is_empty():
            return
        rows = self._suspects("lists", pl.col("request_id").is_in(ids.implode()))
        user = pl.when(~is_anonymous()).then("user_id").alias("user_id")
        kept = check_lists(self._opened.checks, rows.with_columns(user), self._opened.features)
        self._drop(rows, kept)

    def drop_users(self, users: Iterable[str], table: pl.DataFrame | None) -> None:
        """Check these users.

        Args:
            table: features of users by the caller.
        """
        ids = pl.Series("user_id", [*users], pl.String)
        if ids.is_empty():
            return
        rows = self._suspects("users", pl.col("user_id").is_in(ids.implode()))
        opened = self._opened
        self._drop(rows, check_users(opened.checks, name_users(rows), opened.schema, table))

    def log(self) -> DealtLog:
        """Return the log without the rows that were left out."""
        if not self._dropped:
            return self._log
        dropped = pl.concat(self._dropped).unique().sort()
        # Another name for other rows: the caller compares logs by the path.
        path = self._scratch / DROPPED.format(len(self._dropped))
        pl.DataFrame({ROW: dropped}).write_parquet(path)
        return dataclasses.replace(self._log, dropped=path)

    def _suspects(self, name: str, condition: pl.Expr) -> pl.LazyFrame:
        path = self._scratch / f"suspect-{name}.parquet"
        self.log().rows().filter(condition).sink_parquet(path)
        return pl.scan_parquet(path)

    def _drop(self, rows: pl.LazyFrame, kept: pl.LazyFrame) -> None:
        lost = rows.select(ROW).join(kept.select(ROW), on=ROW, how="anti")
        self._dropped.append(lost.collect(engine="streaming")[ROW])


def broken_requests(collected: Mapping[Path, Mapping[str, Any]]) -> set[str]:
    """Return the lists that break a rule, or that have rows in two shards.

    Args:
        collected: results of `requests.collect` by their directories.
    """
    broken = {name for result in collected.values() for name in result["broken_requests"]}
    lists = pl.scan_parquet([path / REQUESTS for path in collected])
    hashed = lists.select(pl.col("request_id").hash()).collect(engine="streaming").to_series()
    if hashed.n_unique() == len(hashed):
        return broken
    repeated = hashed.filter(hashed.is_duplicated()).unique()
    suspects = lists.filter(pl.col("request_id").hash().is_in(repeated.implode()))
    counts = suspects.group_by("request_id").len().filter(pl.col("len") > 1)
    return broken | set(counts.collect()["request_id"])


def broken_users(
    log: DealtLog,
    collected: Iterable[Mapping[str, Any]],
    requests: Iterable[str],
    table: pl.DataFrame | None,
) -> set[str]:
    """Return the users that break a rule, or may once lists lose rows.

    Args:
        requests: lists that break a rule.
        table: features of users by the caller.
    """
    users = {name for result in collected for name in result["broken_users"]}
    ids = pl.Series([*requests], dtype=pl.String)
    if len(ids):
        rows = log.rows().filter(pl.col("request_id").is_in(ids.implode()))
        users |= set(rows.select("user_id").unique().collect(engine="streaming")["user_id"])
    in_table = [] if table is None else table.columns
    features = [f for f in log.schema.features if f.of == "user" and f.required]
    needed = [f.name for f in features if f.name in in_table and f.name != "user_id"]
    if table is not None and needed:
        for name in needed:
            complete = table.drop_nulls(name)["user_id"].unique()
            every = log.rows().select("user_id").unique()
            lacking = every.filter(~pl.col("user_id").is_in(complete.implode()))
            users |= set(lacking.collect(engine="streaming")["user_id"])
    return users
