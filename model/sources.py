"""Read a user's own log, checked row by row, and say precisely what is wrong with a bad one."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from service.feature_schema import Feature, Schema

SPLITS = ("train", "valid", "test", "history")
ROW = "__row"  # 1-based data row in the source file
BASE = ("request_id", "user_id", "item_id", "position", "label")
DTYPES: dict[str, Any] = {
    "identifier": pl.String,
    "category": pl.String,
    "categories": pl.List(pl.String),
    "number": pl.Float64,
    "statistic": pl.Float64,
    "vector": pl.List(pl.Float32),
}
TEXT = "text or a whole number"
REQUIRED = "required by the schema"
_ABSENT = object()


class DataError(ValueError):
    """Bad input, in one line: file, row, column, rule and value.

    `row` counts data rows from 1: a CSV's header is none, a JSON-lines file has one per line.
    """

    def __init__(
        self,
        file: Path,
        rule: str,
        *,
        row: int | None = None,
        column: str | None = None,
        value: object = _ABSENT,
    ) -> None:
        place = str(file)
        place += "" if row is None else f", row {row}"
        place += "" if column is None else f", column {column}"
        shown = "null" if value is None else repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        got = "" if value is _ABSENT else f", got {shown}"
        super().__init__(f"{place}: {' '.join(rule.split())}{got}")


@dataclass(frozen=True)
class Source:
    """What was read.

    rows      request_id str, user_id str, item_id str, position i32, label f32, inline features
    requests  request_id str, user_id str, timestamp i64 [, split str]; by timestamp, then file
    items     item_id str and the item features; users  user_id str and the user features
    ignored   columns of the log that the schema does not name
    histories request_id str, item_id str, label f32, oldest first: what each request's user is
              known to have answered, where that is not simply the user's other lists

    A statistic that `items` already has is the source's own, inline in its train rows; the others
    are fitted on the train lists.
    """

    rows: pl.LazyFrame
    requests: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    ignored: tuple[str, ...] = ()
    histories: pl.DataFrame | None = None


@dataclass(frozen=True)
class Rule:
    """`broken` is true on rows whose `column` breaks the rule `text`; never null."""

    column: str
    text: str
    broken: pl.Expr


def read_log(
    path: Path, schema: Schema, scratch: Path, items: Path | None = None, users: Path | None = None
) -> Source:
    """Read a Parquet or CSV log, checked row by row; `scratch` names a Parquet file to write.

    Raises DataError for what docs/data.md calls an error.
    """
    raw = scan(path)
    dtypes = raw.collect_schema()
    require(path, dtypes, BASE, "log")
    features = [f for f in schema.features if f.name in dtypes and f.name not in BASE]
    for feature in features:
        if feature.kind == "statistic":
            raise DataError(path, "a statistic is computed, not given", column=feature.name)
    rules, columns = _base_columns(schema, dtypes)
    for feature in features:
        expression, more = _feature_column(path, feature, dtypes[feature.name])
        columns[feature.name] = expression
        rules += more
        if feature.of != "user":  # of whose rows one may tell what the others leave out
            rules += _required(feature, expression)
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
    known = {*BASE, ROW, "timestamp", "split", *(feature.name for feature in features)}
    ignored = tuple(name for name in dtypes.names() if name not in known)
    return Source(log.select(*BASE, *inline), requests, tables["item"], tables["user"], ignored)


def _next(bar: Any, name: str) -> None:
    bar.set_description(name)
    bar.update()


def scan(path: Path) -> pl.LazyFrame:
    """Read a table lazily, with ROW in front; CSV columns stay text, so errors can quote them.

    Raises DataError for a file that is not there, not a table, or empty.
    """
    if not path.is_file():
        raise DataError(path, "no such file")
    try:
        if path.suffix == ".parquet":
            frame = pl.scan_parquet(path)
        elif path.name.endswith((".csv", ".csv.gz")):
            frame = pl.scan_csv(path, infer_schema=False)
        else:
            raise DataError(path, "a file named .parquet, .csv or .csv.gz")
        frame = frame.with_row_index(ROW, offset=1)
        empty = frame.head(1).collect().is_empty()
    except pl.exceptions.NoDataError:
        empty = True
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from None
    if empty:
        raise DataError(path, "at least one row, got an empty file")
    return frame


def _unreadable(path: Path, error: Exception) -> DataError:
    """Name the row that breaks a CSV's shape; polars does not."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            lines = csv.reader(file)
            width = len(next(lines, ()))
            for row, line in enumerate(lines, 1):
                if len(line) > width:
                    return DataError(path, f"{width} fields", row=row, value=len(line))
    return DataError(path, f"unreadable ({str(error).splitlines()[0]})")


def require(path: Path, dtypes: pl.Schema, columns: Sequence[str], what: str = "file") -> None:
    """Every one of `columns` is in a scanned file, else DataError with those there are."""
    for column in columns:
        if column not in dtypes:
            there = ", ".join(name for name in dtypes.names() if name != ROW)
            raise DataError(path, f"missing; the {what} has {there}", column=column)


def check(
    path: Path, frame: pl.LazyFrame, rules: Sequence[Rule], empty_lists: bool = False
) -> None:
    """One pass over the file for all rules; the first bad row is the one named."""
    firsts = [pl.col(ROW).filter(r.broken).min().alias(str(i)) for i, r in enumerate(rules)]
    try:
        found = frame.select(firsts).collect(engine="streaming").row(0)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from None
    broken = [(row, index) for index, row in enumerate(found) if row is not None]
    if not broken:
        return
    row, index = min(broken)
    rule = rules[index]
    at_row = frame.filter(pl.col(ROW) == row).collect().row(0, named=True)
    if empty_lists and rule.column == "item_id" and at_row["item_id"] is None:
        request = at_row["request_id"]
        same = frame.filter(pl.col("request_id") == request, pl.col("item_id").is_not_null())
        if same.head(1).collect().is_empty():
            text = f"at least one candidate in request {request!r}"
            raise DataError(path, text, row=row, column="item_id", value=None)
    raise DataError(path, rule.text, row=row, column=rule.column, value=at_row[rule.column])


def _base_columns(schema: Schema, dtypes: pl.Schema) -> tuple[list[Rule], dict[str, pl.Expr]]:
    """The rules for a log's own columns, and how each is read."""
    rules: list[Rule] = []
    columns = {}
    for name in ("request_id", "user_id", "item_id"):
        more, columns[name] = _id_column(name, dtypes[name])
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


def once(path: Path, table: pl.DataFrame, key: Sequence[str], rule: str = "once per file") -> None:
    """No two rows of `table`, which has ROW, agree in all columns of `key`; the last is named."""
    twice = table.filter(~pl.struct(key).is_first_distinct())
    if len(twice):
        row = twice.row(0, named=True)
        raise DataError(path, rule, row=row[ROW], column=key[-1], value=row[key[-1]])


def id_rule(column: str, read: pl.Expr | None = None) -> Rule:
    """An id is neither null nor blank, as it is `read`: by default simply cast to text."""
    text = pl.col(column).cast(pl.String) if read is None else read
    blank = text.str.strip_chars().fill_null("") == ""
    return Rule(column, "an id, neither null nor blank", blank)


def _id_column(column: str, dtype: pl.DataType) -> tuple[list[Rule], pl.Expr]:
    read, broken = _text(pl.col(column), dtype)
    return [Rule(column, TEXT, broken), id_rule(column, read)], read


def _text(value: pl.Expr, dtype: pl.DataType) -> tuple[pl.Expr, pl.Expr]:
    """How a text or whole number is read as text, as the service reads it, and where it is neither.

    Beside a null many tools write whole numbers as floats: 1.0 is the 1 of a request, NaN a null.
    """
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        read = pl.when(whole == value).then(whole).cast(pl.String)
        return read, (value.is_not_nan() & read.is_null()).fill_null(False)
    if dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return value.cast(pl.String), pl.lit(False)
    return pl.lit(None, pl.String), value.is_not_null()


def whole_number(column: str, dtype: pl.DataType, to: Any) -> tuple[Rule, pl.Expr]:
    """The rule that `column` holds whole numbers (a timestamp may be a time), and its value."""
    if column == "timestamp" and dtype.is_temporal():
        value = pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
        return Rule(column, "a time", value.is_null()), value
    value = pl.col(column).cast(to, strict=False)
    broken = value.is_null()
    if dtype.is_float():
        broken = (broken | (value != pl.col(column))).fill_null(True)
    return Rule(column, "a whole number", broken), value


def _feature_column(path: Path, feature: Feature, dtype: pl.DataType) -> tuple[pl.Expr, list[Rule]]:
    """How a feature's column is read, and its rules; lists in a text column are `|`-separated."""
    given = pl.col(feature.name)
    is_list = isinstance(dtype, (pl.List, pl.Array))
    if is_list and feature.kind not in ("categories", "vector"):
        raise DataError(path, f"one value per row for a {feature.kind}", column=feature.name)
    if isinstance(dtype, pl.Array):
        given = given.arr.to_list()
    if feature.kind == "categories" and is_list:
        element, other = _text(pl.element(), dtype.inner)
        expression = given.list.eval(element.drop_nulls())
        rule, broken = TEXT, given.list.eval(other).list.any()
    elif feature.slots:
        expression, broken = _text(given, dtype)
        rule = TEXT
        if feature.kind == "categories":
            expression = _parts(expression)
    elif feature.kind == "vector":
        numbers = given if is_list else _parts(given.cast(pl.String))
        expression = numbers.list.eval(pl.element().cast(DTYPES["vector"].inner, strict=False))
        rule = f"{feature.width} finite numbers"
        good = expression.list.eval(pl.element().is_finite().fill_null(False)).list.all()
        broken = given.is_not_null() & ((expression.list.len() != feature.width) | ~good)
    else:
        expression = given.cast(DTYPES[feature.kind], strict=False)
        rule = "a finite number"
        broken = given.is_not_null() & ~expression.is_finite().fill_null(False)
    return expression, [Rule(feature.name, rule, broken.fill_null(False))]


def _parts(text: pl.Expr) -> pl.Expr:
    element = pl.element().str.strip_chars()
    return text.str.split("|").list.eval(element.filter(element != ""))


def _required(feature: Feature, expression: pl.Expr) -> list[Rule]:
    return [Rule(feature.name, REQUIRED, expression.is_null())] if feature.required else []


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

    A feature of a user that the log gives is the same in all rows, or null: what it was at some
    other list would not be known.
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
    rules, read = _id_column(key, dtypes[key])
    columns = [pl.col(ROW), read.alias(key)]
    for feature in features:
        if feature.name in dtypes:
            if feature.kind == "statistic":
                raise DataError(path, "a statistic is computed, not given", column=feature.name)
            expression, more = _feature_column(path, feature, dtypes[feature.name])
            columns.append(expression.alias(feature.name))
            rules += more + _required(feature, expression)
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
