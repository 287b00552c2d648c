"""Read and check a user's log of impressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model.data.entities import (
    check_single_value,
    fill_values,
    filled_names,
    place_in_time,
    read_entities,
)
from model.data.errors import DataError
from model.data.files import Files
from model.data.layout import SPLITS
from model.data.log_splits import SplitOptions, split_log
from model.data.scan import ROW, require_agreement, scan_files
from model.data.source import LOG_COLUMNS, Source
from model.data.tables import (
    COMPUTED,
    Rule,
    check_rows,
    feature_column,
    id_column,
    require_columns,
    required_rules,
    whole_number,
)
from service.engine.features.schema import Schema

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
) -> Source:
    """Read the files of a log, check every row and split the requests (docs/data.md).

    Args:
        scratch: existing directory for intermediate files; the returned rows are read from it.

    Raises DataError for the first row, column or file that breaks a rule.
    """
    raw = _scan_log(path, schema, scratch)
    dtypes = raw.collect_schema()
    features = [f for f in schema.features if f.name in dtypes and f.name not in LOG_COLUMNS]
    for feature in features:
        if feature.kind == "statistic":
            raise DataError(path, COMPUTED, column=feature.name)
    rules, columns = _base_columns(schema, dtypes)
    for feature in features:
        rule, expression = feature_column(path, feature, dtypes[feature.name])
        columns[feature.name] = expression
        rules.append(rule)
        if feature.of != "user":  # one row of a user may hold the value that others lack
            rules += required_rules(feature, expression)
    with tqdm(total=4, desc="check rows", disable=None, leave=False) as bar:
        check_rows(path, raw, rules, empty_lists=True)
        _advance(bar, "read")
        named = [expression.alias(name) for name, expression in columns.items()]
        raw.select(ROW, *named).sink_parquet(scratch / "log.parquet")
        log = pl.scan_parquet(scratch / "log.parquet")
        _advance(bar, "check lists")
        for column in ("item_id", "position"):
            _check_unique(path, log, column)
        contexts = [feature.name for feature in features if feature.of == "context"]
        requests = _collect_requests(path, log, contexts)
        requests, moment = split_log(path, requests, splitting, "timestamp" in dtypes)
        _advance(bar, "items and users")
        placed = place_in_time(path, log, requests, moment, "timestamp" in dtypes)
        item_table, item_values = read_entities(placed, schema, "item", items, scratch)
        user_table, user_values = read_entities(placed, schema, "user", users, scratch)
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


def _scan_log(path: Files, schema: Schema, scratch: Path) -> pl.LazyFrame:
    """Scan the log, and check that its files have the columns that they must have."""
    kinds = {**{feature.name: feature.kind for feature in schema.features}, **BASE_KINDS}
    raw = scan_files(path, kinds, scratch)
    require_columns(path, raw.collect_schema(), LOG_COLUMNS, "log")
    optional = {feature.name for feature in schema.features if not feature.required}
    require_agreement(path, kinds, optional - set(BASE_KINDS))
    return raw


def _advance(bar: Any, name: str) -> None:
    bar.set_description(name)
    bar.update()


def _base_columns(schema: Schema, dtypes: pl.Schema) -> tuple[list[Rule], dict[str, pl.Expr]]:
    """Return the rules and values of the columns that every log has."""
    rules: list[Rule] = []
    columns = {}
    for name in ("request_id", "user_id", "item_id"):
        id_rules, columns[name] = id_column(name, dtypes[name])
        rules += id_rules
    low, high = schema.label.range
    label = pl.col("label").cast(pl.Float64, strict=False)
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


def _check_unique(path: Files, log: pl.LazyFrame, column: str) -> None:
    """Raise DataError if a request has an item twice, or two items at one position."""
    rows = pl.col(ROW)
    repeated = (
        log.group_by("request_id", column)
        .agg(rows.min().alias("first"), rows.max().alias("row"))
        .filter(pl.col("first") < pl.col("row"))
        .sort("row")
        .head(1)
        .collect(engine="streaming")
    )
    if len(repeated):
        at = repeated.row(0, named=True)
        earlier = f"request {at['request_id']!r} has it in row {at['first']} too"
        rule = f"must occur once per request; {earlier}"
        raise DataError(path, rule, row=at["row"], column=column, value=at[column])


def _collect_requests(path: Files, log: pl.LazyFrame, contexts: Sequence[str]) -> pl.DataFrame:
    """Return one row per request, ordered by time; check that user, split and context are one."""
    names = log.collect_schema().names()
    single = ["user_id", *(["split"] if "split" in names else ()), *contexts]
    # Without timestamps the order of rows stands for time. With them it must not matter.
    timed = "timestamp" in names
    if not timed and len(path.paths) > 1:
        first, last = path.paths[0], path.paths[-1]
        path.remarks.append(f"without timestamps, time runs by path from {first} to {last}")
    time = pl.col("timestamp" if timed else ROW).min().cast(pl.Int64)
    requests = (
        log.group_by("request_id")
        .agg(
            time.alias("timestamp"),
            pl.col(ROW).min(),
            *(pl.col(name).n_unique().alias(f"__{name}") for name in single),
            *(pl.col(name).first() for name in single if name not in contexts),
        )
        .sort("timestamp", "request_id" if timed else ROW)
        .collect(engine="streaming")
    )
    for name in single:
        check_single_value(path, log, "request_id", requests, name)
    kept = ["request_id", "user_id", "timestamp", *(["split"] if "split" in names else ())]
    return requests.select(kept)


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
