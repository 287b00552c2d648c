"""Read and check a user's log of impressions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model.data.entities import fill_values, filled_names, place_in_time, read_entities
from model.data.entity_tables import check_matches, read_entity_table
from model.data.errors import DataError
from model.data.extremes import extreme_rules
from model.data.files import Files
from model.data.ids import find_decimals, id_column
from model.data.layout import SPLITS
from model.data.log_checks import LogChecks
from model.data.log_splits import SplitOptions, split_log
from model.data.rankable import check_rankable
from model.data.rejects import Rejects
from model.data.rules import Report, Rule
from model.data.scan import ROW, require_agreement, scan_files
from model.data.source import LOG_COLUMNS, Source
from model.data.tables import (
    COMPUTED,
    decimal_text,
    feature_column,
    require_columns,
    required_rules,
    whole_number,
)
from model.data.users import count_anonymous, drop_anonymous, name_users
from service.engine.features.schema import Feature, Schema

# Kinds of the columns that every log may have, beside those of the schema.
BASE_KINDS = {
    "request_id": "identifier",
    "user_id": "identifier",
    "item_id": "identifier",
    "position": "whole",
    "label": "number",
    "timestamp": "time",
    "split": "category",
}

SPLIT_BY_LOG = SplitOptions()


def read_impressions(
    path: Files,
    schema: Schema,
    scratch: Path,
    items: Files | None = None,
    users: Files | None = None,
    splitting: SplitOptions = SPLIT_BY_LOG,
    rejects: Rejects | None = None,
) -> Source:
    """Read the files of a log, check every row and split the requests (docs/data.md).

    Args:
        scratch: existing directory for intermediate files; the returned rows are read from it.
        rejects: takes the rows that break a rule; without it they are an error.

    Raises DataError for rows, columns or files that break a rule.
    """
    report = Report(rejects)
    raw = _scan_log(path, schema, scratch, report)
    dtypes = raw.collect_schema()
    features = [f for f in schema.features if f.name in dtypes and f.name not in LOG_COLUMNS]
    checks = LogChecks(path, report, raw)
    with tqdm(total=4, desc="check rows", disable=None, leave=False) as bar:
        log = _read_rows(checks, schema, features, scratch)
        _advance(bar, "check lists")
        log = name_users(_check_lists(checks, log, features))
        _advance(bar, "items and users")
        timed = "timestamp" in dtypes
        of_items = read_entity_table(items, "item", schema, timed, scratch, report)
        of_users = read_entity_table(users, "user", schema, timed, scratch, report)
        log = _check_users(checks, log, schema, of_users)
        report.raise_first()
        log = _without_dropped(path, report, log, scratch)
        check_matches(items, log, "item_id", of_items)
        check_matches(users, log, "user_id", of_users)
        requests, moment = split_log(path, _collect_requests(path, log), splitting, timed)
        count_anonymous(path, requests)
        check_rankable(path, log, requests, schema.label)
        placed = place_in_time(path, log, requests, moment, timed)
        item_table, item_values = read_entities(placed, schema, "item", of_items)
        user_table, user_values = read_entities(placed, schema, "user", of_users)
        user_table = drop_anonymous(user_table)
        tables = {"item": item_table, "user": user_table}
        _advance(bar, "done")
    _check_schema_columns(path, schema, dtypes.names(), tables)
    rows = fill_values(fill_values(placed.rows, "item_id", item_values), "user_id", user_values)
    inline = [feature.name for feature in features if feature.of != "user"]
    inline += filled_names(schema, inline, item_values, user_values)
    expected = {*BASE_KINDS, ROW, *(feature.name for feature in features)}
    ignored = tuple(name for name in dtypes.names() if name not in expected)
    return Source(
        rows.select(*LOG_COLUMNS, *inline),
        requests,
        item_table,
        user_table,
        ignored,
        moment=moment,
    )


def _read_rows(
    checks: LogChecks, schema: Schema, features: Sequence[Feature], scratch: Path
) -> pl.LazyFrame:
    """Check the log row by row, write the good rows to `scratch` and return them."""
    raw, dtypes = checks.raw, checks.raw.collect_schema()
    for feature in features:
        if feature.kind == "statistic":
            raise DataError(checks.files, COMPUTED, column=feature.name)
    decimals = find_decimals(checks.files, raw, _kinds(schema))
    rules, columns = _base_columns(checks.files, schema, dtypes, decimals)
    for feature in features:
        of_feature, columns[feature.name] = feature_column(
            checks.files, feature, dtypes[feature.name], feature.name in decimals
        )
        rules += of_feature
        if feature.of != "user":  # one row of a user may hold the value that others lack
            rules += required_rules(feature, columns[feature.name])
    good = checks.report.check(checks.files, raw, rules, empty_lists=True)
    named = [expression.alias(name) for name, expression in columns.items()]
    good.select(ROW, *named).sink_parquet(scratch / "log.parquet")
    log = pl.scan_parquet(scratch / "log.parquet")
    extremes = [*extreme_rules(log, features, sum(checks.files.counts))]
    return checks.report.check(checks.files, log, extremes, raw)


def _check_lists(checks: LogChecks, log: pl.LazyFrame, features: Sequence[Feature]) -> pl.LazyFrame:
    """Check that a request has an item and a position once, and one user, split and context."""
    for column in ("item_id", "position"):
        log = checks.unique(log, column)
    single = [name for name in ("user_id", "split") if name in log.collect_schema()]
    contexts = [feature.name for feature in features if feature.of == "context"]
    return checks.single(log, "request_id", [*single, *contexts])


def _check_users(
    checks: LogChecks, log: pl.LazyFrame, schema: Schema, table: pl.DataFrame | None
) -> pl.LazyFrame:
    """Check that users have one value of each feature in the log, and the required ones at all.

    Values may be null, but must agree otherwise, because a list would see the value of another
    time.
    """
    in_table = [] if table is None else table.columns
    features = [f for f in schema.features if f.of == "user" and f.name != "user_id"]
    present = log.collect_schema().names()
    in_log = [f.name for f in features if f.name in present and f.name not in in_table]
    log = checks.single(log, "user_id", in_log, nulls=False, hint=", or be of: context")
    for feature in features:
        source = log if feature.name in in_log else None
        if table is not None and feature.name in in_table:
            source = table.lazy()
        if feature.required and source is not None:
            log = checks.required(log, "user_id", feature.name, source)
    return log


def _without_dropped(path: Files, report: Report, log: pl.LazyFrame, scratch: Path) -> pl.LazyFrame:
    """Return the log as it is, or written once more if rows were dropped from it."""
    if not report.broken:
        return log
    log.sink_parquet(scratch / "kept.parquet")
    log = pl.scan_parquet(scratch / "kept.parquet")
    if log.head(1).collect().is_empty():
        raise DataError(path, "must have at least one row that breaks no rule, got none")
    return log


def _scan_log(path: Files, schema: Schema, scratch: Path, report: Report) -> pl.LazyFrame:
    """Scan the log, and check that its files have the columns that they must have."""
    kinds = _kinds(schema)
    raw = report.readable(path, scan_files(path, kinds, scratch))
    optional = {feature.name for feature in schema.features if not feature.required}
    optional -= {*BASE_KINDS}
    if not _needs_users(schema):
        optional.add("user_id")
    needed = [name for name in LOG_COLUMNS if name not in optional]
    try:
        require_columns(path, raw.collect_schema(), needed, "log")
        require_agreement(path, kinds, optional)
    except DataError:
        report.raise_first()  # a row that cannot be read may be the reason
        raise
    return raw


def _needs_users(schema: Schema) -> bool:
    return any(feature.name == "user_id" and feature.required for feature in schema.features)


def _kinds(schema: Schema) -> dict[str, str]:
    return {**{feature.name: feature.kind for feature in schema.features}, **BASE_KINDS}


def _advance(bar: Any, name: str) -> None:
    bar.set_description(name)
    bar.update()


def _base_columns(
    files: Files, schema: Schema, dtypes: pl.Schema, decimals: Collection[str]
) -> tuple[list[Rule], dict[str, pl.Expr]]:
    """Return the rules and values of the columns that every log has.

    Args:
        decimals: columns of ids that are written with decimals.
    """
    rules: list[Rule] = []
    columns: dict[str, pl.Expr] = {"user_id": pl.lit(None, pl.String)}
    for name in ("request_id", "user_id", "item_id"):
        if name in dtypes:
            required = name != "user_id" or _needs_users(schema)
            id_rules, columns[name] = id_column(
                name, dtypes[name], name in decimals, required, files
            )
            rules += id_rules
    low, high = schema.label.range
    label = decimal_text(pl.col("label"), dtypes["label"], files).cast(pl.Float64, strict=False)
    whole_rule, columns["position"] = whole_number("position", dtypes["position"], pl.Int32)
    columns["label"] = ((label - low) / (high - low)).cast(pl.Float32)
    rules += [
        whole_rule,
        Rule("position", "must be at least 0", (columns["position"] < 0).fill_null(False)),
        Rule("label", "must be a number", ~label.is_finite().fill_null(False)),
        Rule(
            "label",
            f"must be between {low:g} and {high:g}",
            ~label.is_between(low, high).fill_null(True),
        ),
    ]
    if "timestamp" in dtypes:
        whole_rule, columns["timestamp"] = whole_number("timestamp", dtypes["timestamp"], pl.Int64)
        rules.append(whole_rule)
    if "split" in dtypes:
        columns["split"] = pl.col("split").cast(pl.String)
        broken = ~columns["split"].is_in(SPLITS).fill_null(False)
        rules.append(Rule("split", f"must be one of {', '.join(SPLITS)}", broken))
    return rules, columns


def _collect_requests(path: Files, log: pl.LazyFrame) -> pl.DataFrame:
    """Return one row per request, ordered by time."""
    names = log.collect_schema().names()
    # Without timestamps the order of rows stands for time. With them it must not matter.
    timed = "timestamp" in names
    if not timed and len(path.paths) > 1:
        first, last = path.paths[0], path.paths[-1]
        path.remarks.append(f"without timestamps, time runs by path from {first} to {last}")
    time = pl.col("timestamp" if timed else ROW).min().cast(pl.Int64)
    kept = ["user_id", *(["split"] if "split" in names else ())]
    requests = (
        log.group_by("request_id")
        .agg(time.alias("timestamp"), pl.col(ROW).min(), pl.col(kept).first())
        .sort("timestamp", "request_id" if timed else ROW)
        .collect(engine="streaming")
    )
    return requests.select("request_id", "user_id", "timestamp", *kept[1:])


def _check_schema_columns(
    path: Files, schema: Schema, columns: Sequence[str], tables: dict[str, pl.DataFrame]
) -> None:
    """Raise DataError if a feature has no column anywhere and is not computed by prepare."""
    for feature in schema.features:
        owned = tables[feature.of].columns if feature.of in tables else ()
        if feature.kind != "statistic" and feature.name not in (*columns, *owned):
            missing = (
                f"is missing; the schema declares it of {feature.of}, but it is not in the log"
            )
            rule = (
                f"{missing} nor in a table (--{feature.of}s)" if feature.of in tables else missing
            )
            raise DataError(path, rule, column=feature.name)
