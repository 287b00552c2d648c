"""Read a user's own log, checked row by row, and say precisely what is wrong with a bad one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model.data.errors import DataError
from model.data.layout import SPLITS
from model.data.source import LOG_COLUMNS, Source
from model.data.tables import (
    REQUIRED,
    ROW,
    Rule,
    check,
    feature_column,
    id_column,
    once,
    require,
    required,
    scan,
    whole_number,
)
from service.engine.features.schema import Feature, Schema


def read_log(
    path: Path, schema: Schema, scratch: Path, items: Path | None = None, users: Path | None = None
) -> Source:
    """Read a Parquet or CSV log, checked row by row; `scratch` names a Parquet file to write.

    Raises DataError for what docs/data.md calls an error.
    """
    raw = scan(path)
    dtypes = raw.collect_schema()
    require(path, dtypes, LOG_COLUMNS, "log")
    features = [f for f in schema.features if f.name in dtypes and f.name not in LOG_COLUMNS]
    for feature in features:
        if feature.kind == "statistic":
            raise DataError(path, "a statistic is computed, not given", column=feature.name)
    rules, columns = _base_columns(schema, dtypes)
    for feature in features:
        rule, expression = feature_column(path, feature, dtypes[feature.name])
        columns[feature.name] = expression
        rules.append(rule)
        if feature.of != "user":  # one row may tell of a user what the others leave out
            rules += required(feature, expression)
    with tqdm(total=4, desc="check rows", disable=None, leave=False) as bar:
        check(path, raw, rules, empty_lists=True)
        _next(bar, "read")
        named = [expression.alias(name) for name, expression in columns.items()]
        raw.select(ROW, *named).sink_parquet(scratch)
        log = pl.scan_parquet(scratch)
        _next(bar, "check lists")
        for column in ("item_id", "position"):
            _check_once(path, log, column)
        contexts = [feature.name for feature in features if feature.of == "context"]
        requests = _requests(path, log, contexts)
        _next(bar, "items and users")
        tables = {
            owner: _table(path, log, schema, owner, given)
            for owner, given in (("item", items), ("user", users))
        }
        _next(bar, "done")
    _check_declared(path, schema, dtypes.names(), tables)
    inline = [feature.name for feature in features if feature.of != "user"]
    known = {*LOG_COLUMNS, ROW, "timestamp", "split", *(feature.name for feature in features)}
    ignored = tuple(name for name in dtypes.names() if name not in known)
    return Source(
        log.select(*LOG_COLUMNS, *inline), requests, tables["item"], tables["user"], ignored
    )


def _next(bar: Any, name: str) -> None:
    bar.set_description(name)
    bar.update()


def _base_columns(schema: Schema, dtypes: pl.Schema) -> tuple[list[Rule], dict[str, pl.Expr]]:
    """The rules for a log's own columns, and how each is read."""
    rules: list[Rule] = []
    columns = {}
    for name in ("request_id", "user_id", "item_id"):
        more, columns[name] = id_column(name, dtypes[name])
        rules += more
    low, high = schema.label_range
    label = pl.col("label").cast(pl.Float64, strict=False)
    whole, columns["position"] = whole_number("position", dtypes["position"], pl.Int32)
    columns["label"] = ((label - low) / (high - low)).cast(pl.Float32)
    rules += [
        whole,
        Rule("position", "at least 0", (columns["position"] < 0).fill_null(False)),
        Rule("label", "a number", ~label.is_finite().fill_null(False)),
        Rule(
            "label", f"between {low:g} and {high:g}", ~label.is_between(low, high).fill_null(True)
        ),
    ]
    if "timestamp" in dtypes:
        whole, columns["timestamp"] = whole_number("timestamp", dtypes["timestamp"], pl.Int64)
        rules.append(whole)
    if "split" in dtypes:
        columns["split"] = pl.col("split").cast(pl.String)
        broken = ~columns["split"].is_in(SPLITS).fill_null(False)
        rules.append(Rule("split", f"one of {', '.join(SPLITS)}", broken))
    return rules, columns


def _check_once(path: Path, log: pl.LazyFrame, column: str) -> None:
    """No request shows an item twice, or two items at one position."""
    rows = pl.col(ROW)
    twice = (
        log.group_by("request_id", column)
        .agg(rows.min().alias("first"), rows.max().alias("row"))
        .filter(pl.col("first") < pl.col("row"))
        .sort("row")
        .head(1)
        .collect(engine="streaming")
    )
    if len(twice):
        at = twice.row(0, named=True)
        rule = f"once per request; request {at['request_id']!r} has it in row {at['first']} too"
        raise DataError(path, rule, row=at["row"], column=column, value=at[column])


def _requests(path: Path, log: pl.LazyFrame, contexts: Sequence[str]) -> pl.DataFrame:
    """One row per request, ordered; each has one user, one split and one context."""
    names = log.collect_schema().names()
    single = ["user_id", *(["split"] if "split" in names else ()), *contexts]
    # Without timestamps the order in the file stands for time.
    time = pl.col("timestamp" if "timestamp" in names else ROW).min().cast(pl.Int64)
    requests = (
        log.group_by("request_id")
        .agg(
            time.alias("timestamp"),
            pl.col(ROW).min(),
            *(pl.col(name).n_unique().alias(f"__{name}") for name in single),
            *(pl.col(name).first() for name in single if name not in contexts),
        )
        .sort("timestamp", ROW)
        .collect(engine="streaming")
    )
    for name in single:
        _check_one(path, log, "request_id", requests, name)
    kept = ["request_id", "user_id", "timestamp", *(["split"] if "split" in names else ())]
    return requests.select(kept)


def _check_one(
    path: Path, log: pl.LazyFrame, key: str, counted: pl.DataFrame, name: str, hint: str = ""
) -> None:
    """Each `key` has one value of `name` in the log, if as many as `counted` says in __name."""
    mixed = counted.filter(pl.col(f"__{name}") > 1).head(1)
    if len(mixed):
        own, whose = mixed[key].item(), key.removesuffix("_id")
        seen = log.filter(pl.col(key) == own).sort(ROW).select(ROW, name).collect()
        first = seen.row(0)[1]
        row, value = next(entry for entry in seen.iter_rows() if entry[1] != first)
        rule = f"one value per {whose}{hint}; {whose} {own!r} began with {first!r}"
        raise DataError(path, rule, row=row, column=name, value=value)


def _table(
    path: Path, log: pl.LazyFrame, schema: Schema, owner: str, given: Path | None
) -> pl.DataFrame:
    """Ids and features of items or users: from the file given, else first non-null in the log.

    What the log gives of a user is the same in all rows, or null: else a list would be told what
    its user was at another time.
    """
    key = f"{owner}_id"
    features = [f for f in schema.features if f.of == owner and f.name != key]
    table = None if given is None else _read_table(given, key, features)
    has = [] if table is None else table.columns
    in_log = log.collect_schema().names()
    names = [f.name for f in features if f.name in in_log and f.name not in has]
    values = {name: pl.col(name).drop_nulls() for name in names}
    firsts = [value.first() for value in values.values()]
    counts = [value.n_unique().alias(f"__{name}") for name, value in values.items()]
    found = log.group_by(key, maintain_order=True).agg(*firsts, *counts).collect(engine="streaming")
    for name in names if owner == "user" else ():
        _check_one(path, log.drop_nulls(name), key, found, name, ", or else of: context")
    if table is not None:
        found = found.join(table, on=key, how="full", coalesce=True)
    kept = [feature.name for feature in features if feature.name in found.columns]
    for name in (f.name for f in features if f.required and f.name in kept):
        without = found.filter(pl.col(name).is_null())[key]
        rows = log.filter(pl.col(key).is_in(without.implode())).select(ROW, key)
        for row, own in rows.head(1).collect().iter_rows():
            raise DataError(path, f"{REQUIRED}, but {owner} {own!r} has none", row=row, column=name)
    return found.select(key, *kept).sort(key)


def _read_table(path: Path, key: str, features: Sequence[Feature]) -> pl.DataFrame:
    raw = scan(path)
    dtypes = raw.collect_schema()
    require(path, dtypes, [key])
    rules, read = id_column(key, dtypes[key])
    columns = [pl.col(ROW), read.alias(key)]
    for feature in features:
        if feature.name in dtypes:
            if feature.kind == "statistic":
                raise DataError(path, "a statistic is computed, not given", column=feature.name)
            rule, expression = feature_column(path, feature, dtypes[feature.name])
            columns.append(expression.alias(feature.name))
            rules += [rule, *required(feature, expression)]
    check(path, raw, rules)
    table = raw.select(columns).collect(engine="streaming")
    once(path, table, [key])
    return table.drop(ROW)


def _check_declared(
    path: Path, schema: Schema, columns: Sequence[str], tables: dict[str, pl.DataFrame]
) -> None:
    """Every declared feature has a column somewhere, or prepare computes it."""
    for feature in schema.features:
        owned = tables[feature.of].columns if feature.of in tables else ()
        if feature.kind != "statistic" and feature.name not in (*columns, *owned):
            option = f" nor in a table given with --{feature.of}s" if feature.of in tables else ""
            rule = (
                f"missing; the schema declares it of {feature.of}, but it is not in the log{option}"
            )
            raise DataError(path, rule, column=feature.name)
