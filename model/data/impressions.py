"""Read and check a user's log of impressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model.data.entities import fill_values, filled_names, place_in_time, read_entities
from model.data.entity_tables import check_matches, read_entity_table
from model.data.errors import DataError
from model.data.files import Files
from model.data.log_checks import check_lists, check_users
from model.data.log_splits import SplitOptions, split_log
from model.data.opened_log import OpenedLog
from model.data.rankable import check_rankable
from model.data.rules import Report
from model.data.scan import ROW
from model.data.source import LOG_COLUMNS, Source
from model.data.users import drop_anonymous, is_anonymous, name_users, note_anonymous

SPLIT_BY_LOG = SplitOptions()


def read_impressions(
    opened: OpenedLog,
    scratch: Path,
    items: Files | None = None,
    users: Files | None = None,
    splitting: SplitOptions = SPLIT_BY_LOG,
) -> Source:
    """Check the lists and users of a log, split the requests and read items and users.

    Args:
        scratch: existing directory for intermediate files; the returned rows are read from it.

    Raises DataError for rows or tables that break a rule.
    """
    path, schema, checks, timed = opened.files, opened.schema, opened.checks, opened.timed
    report = checks.report
    with tqdm(total=4, desc="read rows", disable=None, leave=False) as bar:
        opened.read(opened.good).sink_parquet(scratch / "log.parquet")
        log = opened.check_extremes(pl.scan_parquet(scratch / "log.parquet"))
        _advance(bar, "check lists")
        log = name_users(check_lists(checks, log, opened.features))
        _advance(bar, "items and users")
        of_items = read_entity_table(items, "item", schema, timed, scratch, report)
        of_users = read_entity_table(users, "user", schema, timed, scratch, report)
        log = check_users(checks, log, schema, of_users)
        report.raise_first()
        log = _without_dropped(path, report, log, scratch)
        check_matches(items, log, "item_id", of_items)
        check_matches(users, log, "user_id", of_users)
        requests, moment = split_log(path, _collect_requests(path, log), splitting, timed)
        note_anonymous(path, requests.select(is_anonymous().sum()).item())
        check_rankable(path, log, requests, schema.label)
        placed = place_in_time(path, log, requests, moment, timed)
        item_table, item_values = read_entities(placed, schema, "item", of_items)
        user_table, user_values = read_entities(placed, schema, "user", of_users)
        user_table = drop_anonymous(user_table)
        _advance(bar, "done")
    check_schema_columns(opened, {"item": item_table, "user": user_table})
    rows = fill_values(fill_values(placed.rows, "item_id", item_values), "user_id", user_values)
    inline = [feature.name for feature in opened.features if feature.of != "user"]
    inline += filled_names(schema, inline, item_values, user_values)
    return Source(
        rows.select(*LOG_COLUMNS, *inline),
        requests,
        item_table,
        user_table,
        opened.ignored(),
        moment=moment,
    )


def _without_dropped(path: Files, report: Report, log: pl.LazyFrame, scratch: Path) -> pl.LazyFrame:
    """Return the log as it is, or written once more if rows were dropped from it."""
    if not report.broken:
        return log
    log.sink_parquet(scratch / "kept.parquet")
    log = pl.scan_parquet(scratch / "kept.parquet")
    if log.head(1).collect().is_empty():
        raise DataError(path, "must have at least one row that breaks no rule, got none")
    return log


def _advance(bar: Any, name: str) -> None:
    bar.set_description(name)
    bar.update()


def _collect_requests(path: Files, log: pl.LazyFrame) -> pl.DataFrame:
    """Return one row per request, ordered by time."""
    names = log.collect_schema().names()
    # Without timestamps the order of rows stands for time. With them it must not matter.
    timed = "timestamp" in names
    note_order(path, timed)
    time = pl.col("timestamp" if timed else ROW).min().cast(pl.Int64)
    kept = ["user_id", *(["split"] if "split" in names else ())]
    requests = (
        log.group_by("request_id")
        .agg(time.alias("timestamp"), pl.col(ROW).min(), pl.col(kept).first())
        .sort("timestamp", "request_id" if timed else ROW)
        .collect(engine="streaming")
    )
    return requests.select("request_id", "user_id", "timestamp", *kept[1:])


def note_order(files: Files, timed: bool) -> None:
    """Note that the order of several files stands for time in a log without timestamps."""
    if not timed and len(files.paths) > 1:
        first, last = files.paths[0], files.paths[-1]
        files.remarks.append(f"without timestamps, time runs by path from {first} to {last}")


def check_schema_columns(opened: OpenedLog, tables: dict[str, pl.DataFrame]) -> None:
    """Raise DataError if a feature has no column anywhere and is not computed by prepare."""
    columns = opened.checks.raw.collect_schema().names()
    for feature in opened.schema.features:
        owned = tables[feature.of].columns if feature.of in tables else ()
        if feature.kind != "statistic" and feature.name not in (*columns, *owned):
            missing = (
                f"is missing; the schema declares it of {feature.of}, but it is not in the log"
            )
            rule = (
                f"{missing} nor in a table (--{feature.of}s)" if feature.of in tables else missing
            )
            raise DataError(opened.files, rule, column=feature.name)
