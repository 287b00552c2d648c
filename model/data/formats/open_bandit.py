"""Read Open Bandit's CSV files, where each row is one item at one of three places of a page.

The files have no id of a list or user, so lists are cut: rows whose times follow each other by at
most `gap` ms and whose user features are equal belong together, and a place that occurs again
begins another list.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from model.data.files import Files
from model.data.formats.imported import Imported, write_table
from model.data.ids import id_rule
from model.data.rules import Rule, check_rows
from model.data.scan import ROW, require_agreement, scan_files
from model.data.tables import decimal_text, require_columns

COLUMNS = {
    "timestamp": "time",
    "item_id": "identifier",
    "position": "whole",
    "click": "number",
}
USER, AFFINITY = "user_feature_", "user-item_affinity_"
EXAMPLE = "2019-11-24 00:00:17.004101+00:00"
TIME, LIST = "__us", "__list"


def read_open_bandit(files: Files, gap: int, scratch: Path) -> Imported:
    """Convert the rows of {policy}/{campaign}/{campaign}.csv to a log with its lists.

    The log has the user features as they are, and `affinity`, that of the row's item. Other columns
    are kept and may be named by a schema.

    Args:
        gap: ms between rows of one list.

    Raises DataError for a row that breaks a rule.
    """
    raw = scan_files(files, COLUMNS, scratch)
    names = raw.collect_schema()
    require_columns(files, names, list(COLUMNS), "log")
    require_agreement(files, dict.fromkeys(names.names()[1:], "category"), ())
    time, place, click = _read_time(pl.col("timestamp")), pl.col("position"), pl.col("click")
    place = place.cast(pl.Int32, strict=False)
    click = decimal_text(click, names["click"], files).cast(pl.Float64, strict=False)
    rules = [
        id_rule("item_id"),
        Rule("timestamp", f"must be a time such as {EXAMPLE}", time.is_null()),
        Rule("position", "must be a whole number of at least 1", ~(place >= 1).fill_null(False)),
        Rule("click", "must be 0 or 1", ~click.is_in([0.0, 1.0]).fill_null(False)),
    ]
    check_rows(files, raw, rules)
    users = [name for name in names if name.startswith(USER)]
    affinities = sorted((n for n in names if n.startswith(AFFINITY)), key=_number)
    dropped = (ROW, "", "timestamp", "position", "click", *affinities)
    converted = scratch / "impressions.parquet"
    raw.select(
        ROW,
        *(name for name in names if name not in dropped),
        _affinity(affinities).alias("affinity"),
        time.alias(TIME),
        (place - 1).alias("position"),
        click.alias("label"),
    ).sink_parquet(converted)
    needed = [ROW, TIME, "position", "item_id", *users]
    lists = cut_lists(pl.read_parquet(converted, columns=needed), users, gap)
    log = pl.scan_parquet(converted).drop(TIME).join(lists.lazy(), on=ROW)
    _describe(files, lists)
    return write_table(files, log.sort(LIST, "position").drop(LIST), "open_bandit", scratch)


def _read_time(text: pl.Expr) -> pl.Expr:
    """Return a time in us from its ISO text, with or without a time zone; null for other text."""
    zoned = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", strict=False, time_unit="us")
    plain = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
    return pl.coalesce(zoned.dt.epoch("us"), plain.dt.epoch("us"))


def _number(affinity: str) -> int:
    number = affinity.removeprefix(AFFINITY)
    return int(number) if number.isdecimal() else -1


def _affinity(columns: list[str]) -> pl.Expr:
    """Return the affinity of the user for the item of the row; null without its column."""
    if not columns:
        return pl.lit(None, pl.Float64)
    values = pl.concat_list(pl.col(name).cast(pl.Float64, strict=False) for name in columns)
    places = {str(_number(name)): place for place, name in enumerate(columns)}
    place = pl.col("item_id").replace_strict(places, default=None, return_dtype=pl.Int64)
    return values.list.get(place, null_on_oob=True)


def cut_lists(rows: pl.DataFrame, users: list[str], gap: int) -> pl.DataFrame:
    """Return ROW, LIST, request_id and timestamp (ms) of the rows that lists hold.

    Args:
        rows: ROW, TIME, position, item_id and `users`, the columns of user features.
        gap: ms between rows of one list.

    An item that a list has already is left out.
    """
    user = pl.concat_str(pl.col(users).fill_null(""), separator="\t") if users else pl.lit("")
    ordered = rows.with_columns(user.alias("__user")).sort(TIME, ROW)
    begins = (pl.col(TIME) - pl.col(TIME).shift().over("__user") > gap * 1000).fill_null(True)
    visits = ordered.with_columns(begins.cum_sum().over("__user").alias("__visit"))
    turn = pl.int_range(pl.len()).over("__user", "__visit", "position").alias("__turn")
    where = ["__user", "__visit", "__turn"]
    lists = visits.with_columns(turn).unique([*where, "item_id"], keep="first", maintain_order=True)
    start = pl.col(TIME).min().over(where)
    first = pl.col(ROW).min().over(where)
    return lists.with_columns(
        (start // 1000).alias("timestamp"),
        pl.struct(start.alias("a"), first.alias("b")).rank("dense").alias(LIST),
    ).select(
        ROW,
        LIST,
        pl.format("list-{}", LIST).alias("request_id"),
        "timestamp",
    )


def _describe(files: Files, lists: pl.DataFrame) -> None:
    """Add remarks about the lists that were cut."""
    sizes = lists.group_by(LIST).len()["len"].value_counts().sort("len")
    counted = ", ".join(f"{count:,} of {size}" for size, count in sizes.iter_rows())
    files.remarks.append(f"lists by length: {counted}")
    repeats = sum(files.counts) - len(lists)
    if repeats:
        files.remarks.append(f"{repeats:,} rows repeat an item of their list and are left out")
