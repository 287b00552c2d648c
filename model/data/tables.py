"""Read the columns of a table, and say precisely which row breaks which rule."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data.errors import DataError
from service.engine.features.schema import Feature

ROW = "__row"  # 1-based data row in the source file
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


@dataclass(frozen=True)
class Rule:
    """`broken` is true on rows whose `column` breaks the rule `text`; never null."""

    column: str
    text: str
    violated: pl.Expr


def scan_table(path: Path) -> pl.LazyFrame:
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


def require_columns(
    path: Path, dtypes: pl.Schema, columns: Sequence[str], kind: str = "file"
) -> None:
    """Every one of `columns` is in a scanned file, else DataError with those there are."""
    for column in columns:
        if column not in dtypes:
            present = ", ".join(name for name in dtypes.names() if name != ROW)
            raise DataError(path, f"missing; the {kind} has {present}", column=column)


def check_rows(
    path: Path, frame: pl.LazyFrame, rules: Sequence[Rule], empty_lists: bool = False
) -> None:
    """One pass over the file for all rules; the first bad row is the one named."""
    first_violations = [
        pl.col(ROW).filter(r.violated).min().alias(str(i)) for i, r in enumerate(rules)
    ]
    try:
        first_rows = frame.select(first_violations).collect(engine="streaming").row(0)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from None
    violations = [(row, index) for index, row in enumerate(first_rows) if row is not None]
    if not violations:
        return
    row, index = min(violations)
    rule = rules[index]
    offending = frame.filter(pl.col(ROW) == row).collect().row(0, named=True)
    if empty_lists and rule.column == "item_id" and offending["item_id"] is None:
        request = offending["request_id"]
        same = frame.filter(pl.col("request_id") == request, pl.col("item_id").is_not_null())
        if same.head(1).collect().is_empty():
            text = f"at least one candidate in request {request!r}"
            raise DataError(path, text, row=row, column="item_id", value=None)
    raise DataError(path, rule.text, row=row, column=rule.column, value=offending[rule.column])


def require_unique(
    path: Path, table: pl.DataFrame, key: Sequence[str], rule: str = "once per file"
) -> None:
    """No two rows of `table`, which has ROW, agree in all columns of `key`; the last is named."""
    repeated = table.filter(~pl.struct(key).is_first_distinct())
    if len(repeated):
        row = repeated.row(0, named=True)
        raise DataError(path, rule, row=row[ROW], column=key[-1], value=row[key[-1]])


def id_rule(column: str, value: pl.Expr | None = None) -> Rule:
    """An id is neither null nor blank, as it is `read`: by default simply cast to text."""
    text = pl.col(column).cast(pl.String) if value is None else value
    blank = text.str.strip_chars().fill_null("") == ""
    return Rule(column, "an id, neither null nor blank", blank)


def id_column(column: str, dtype: pl.DataType) -> tuple[list[Rule], pl.Expr]:
    """The rules for an id, and how it is read."""
    value, violated = _read_as_text(pl.col(column), dtype)
    return [Rule(column, TEXT, violated), id_rule(column, value)], value


def _read_as_text(value: pl.Expr, dtype: pl.DataType) -> tuple[pl.Expr, pl.Expr]:
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
    violated = value.is_null()
    if dtype.is_float():
        violated = (violated | (value != pl.col(column))).fill_null(True)
    return Rule(column, "a whole number", violated), value


def feature_column(path: Path, feature: Feature, dtype: pl.DataType) -> tuple[Rule, pl.Expr]:
    """A feature's rule, and how its column is read; lists in a text column are `|`-separated.

    Raises DataError for lists where the feature is none.
    """
    column = pl.col(feature.name)
    inner: Any = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else None
    is_list = inner is not None
    if is_list and feature.kind not in ("categories", "vector"):
        raise DataError(path, f"one value per row for a {feature.kind}", column=feature.name)
    if isinstance(dtype, pl.Array):
        column = column.arr.to_list()
    if feature.kind == "categories" and is_list:
        element, other = _read_as_text(pl.element(), inner)
        expression = column.list.eval(element.drop_nulls())
        rule, violated = TEXT, column.list.eval(other).list.any()
    elif feature.slots:
        expression, violated = _read_as_text(column, dtype)
        rule = TEXT
        if feature.kind == "categories":
            expression = _split_parts(expression)
    elif feature.kind == "vector":
        numbers = column if is_list else _split_parts(column.cast(pl.String))
        expression = numbers.list.eval(pl.element().cast(DTYPES["vector"].inner, strict=False))
        rule = f"{feature.width} finite numbers"
        good = expression.list.eval(pl.element().is_finite().fill_null(False)).list.all()
        violated = column.is_not_null() & ((expression.list.len() != feature.width) | ~good)
    else:
        expression = column.cast(DTYPES[feature.kind], strict=False)
        rule = "a finite number"
        violated = column.is_not_null() & ~expression.is_finite().fill_null(False)
    return Rule(feature.name, rule, violated.fill_null(False)), expression


def _split_parts(text: pl.Expr) -> pl.Expr:
    element = pl.element().str.strip_chars()
    return text.str.split("|").list.eval(element.filter(element != ""))


def required_rules(feature: Feature, expression: pl.Expr) -> list[Rule]:
    """The rule that a feature, read by `expression`, is there, if the schema says so."""
    return [Rule(feature.name, REQUIRED, expression.is_null())] if feature.required else []
