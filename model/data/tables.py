"""Read the columns of logs and tables, each with the rules for its values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from model.data.errors import DataError
from model.data.files import Files
from model.data.ids import TEXT, id_column, read_text
from model.data.rules import Rule
from model.data.scan import ROW, split_parts
from service.engine.features.encoding import LARGEST
from service.engine.features.schema import Feature

DTYPES: dict[str, Any] = {
    "identifier": pl.String,
    "category": pl.String,
    "categories": pl.List(pl.String),
    "number": pl.Float64,
    "statistic": pl.Float64,
    "vector": pl.List(pl.Float32),
}
REQUIRED = "is required by the schema"
TOO_LARGE = f"must hold numbers of size {LARGEST:.0e} at most"
COMPUTED = "is a statistic, which prepare computes; remove the column"


def require_columns(
    path: Path | Files, dtypes: pl.Schema, columns: Sequence[str], kind: str = "file"
) -> None:
    """Raise DataError if a scanned file lacks one of `columns`; the message lists its columns."""
    for column in columns:
        if column not in dtypes:
            present = ", ".join(name for name in dtypes.names() if name != ROW)
            raise DataError(path, f"is missing; the {kind} has {present}", column=column)


def require_unique(
    path: Path | Files,
    table: pl.DataFrame,
    key: Sequence[str],
    rule: str = "must occur once per file",
) -> None:
    """Raise DataError for the first row of `table` (with ROW) that repeats an earlier `key`."""
    repeated = table.filter(~pl.struct(key).is_first_distinct())
    if len(repeated):
        row = repeated.row(0, named=True)
        raise DataError(path, rule, row=row[ROW], column=key[-1], value=row[key[-1]])


def read_time(text: pl.Expr) -> pl.Expr:
    """Return the time in ms from digits or ISO 8601 text, in UTC by default; null for other text.

    Text is a date, or a date and a time that are separated by T or a blank.
    """
    iso = text.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T")
    iso = iso.str.replace("Z$", "+00:00").str.replace(r"([+-]\d\d)$", "${1}:00")
    form = "%Y-%m-%dT%H:%M:%S%.f"
    zoned = iso.str.to_datetime(f"{form}%:z", strict=False, time_unit="ms")
    plain = iso.str.to_datetime(form, strict=False, time_unit="ms")
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms"))
    numbers = text.cast(pl.Int64, strict=False)
    return pl.coalesce(numbers, *(time.dt.epoch("ms") for time in (zoned, plain, day)))


def whole_number(column: str, dtype: pl.DataType, to: Any) -> tuple[Rule, pl.Expr]:
    """Return the rule that `column` holds whole numbers (or times for timestamp), and its value."""
    if column == "timestamp" and dtype.is_temporal():
        value = pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
        return Rule(column, "must be a time", value.is_null()), value
    if column == "timestamp" and dtype == pl.String:
        value = read_time(pl.col(column))
        return Rule(column, "must be a whole number of ms, or ISO 8601", value.is_null()), value
    value = pl.col(column).cast(to, strict=False)
    violated = value.is_null()
    if dtype.is_float():
        violated = (violated | (value != pl.col(column))).fill_null(True)
    return Rule(column, "must be a whole number", violated), value


def decimal_text(value: pl.Expr, dtype: Any, files: Path | Files) -> pl.Expr:
    """Return the text of numbers with a decimal point, null where it has the wrong decimal mark.

    With a decimal comma, a point is refused: 1.234 may well be 1234.
    """
    if dtype != pl.String or not isinstance(files, Files) or not files.decimal_comma:
        return value
    text = value.str.replace_all(",", ".", literal=True)
    if files.decimal_point:
        return text
    return pl.when(~value.str.contains(".", literal=True)).then(text)


def feature_column(
    path: Path | Files, feature: Feature, dtype: pl.DataType, decimals: bool = False
) -> tuple[list[Rule], pl.Expr]:
    """Return the rules for a feature's column, and its value. Lists in text are `|`-separated.

    Args:
        decimals: the text of an identifier holds whole numbers with decimals.

    Raises DataError if the column holds lists but the feature has one value.
    """
    column = pl.col(feature.name)
    inner: Any = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else None
    is_list = inner is not None
    if is_list and feature.kind not in ("categories", "vector"):
        rule = f"must hold one value per row for the kind {feature.kind}"
        raise DataError(path, rule, column=feature.name, value=str(dtype))
    if isinstance(dtype, pl.Array):
        column = column.arr.to_list()
    if feature.kind == "identifier":
        return id_column(feature.name, dtype, decimals, required=False, files=path)
    if feature.kind == "categories" and is_list:
        element, other = read_text(pl.element(), inner)
        expression = column.list.eval(element.drop_nulls())
        rule, violated = TEXT, column.list.eval(other).list.any()
    elif feature.slots:
        expression, violated = read_text(column, dtype)
        rule = TEXT
        if feature.kind == "categories":
            expression = split_parts(expression, "|")
    elif feature.kind == "vector":
        numbers = column if is_list else split_parts(column.cast(pl.String), "|")
        element = decimal_text(pl.element(), inner or dtype, path)
        expression = numbers.list.eval(element.cast(DTYPES["vector"].inner, strict=False))
        rule = f"must hold {feature.width} finite numbers"
        good = expression.list.eval(pl.element().is_finite().fill_null(False)).list.all()
        violated = column.is_not_null() & ((expression.list.len() != feature.width) | ~good)
    else:
        number = decimal_text(column, dtype, path)
        expression = number.cast(DTYPES[feature.kind], strict=False)
        rule = "must be a finite number"
        violated = column.is_not_null() & ~expression.is_finite().fill_null(False)
    rules = [Rule(feature.name, rule, violated.fill_null(False))]
    if feature.kind == "vector":
        large = expression.list.eval(pl.element().abs() > LARGEST).list.any()
        rules.append(Rule(feature.name, TOO_LARGE, large.fill_null(False)))
    return rules, expression


def required_rules(feature: Feature, expression: pl.Expr) -> list[Rule]:
    """Return the rule that a required feature, with the value `expression`, is not null."""
    return [Rule(feature.name, REQUIRED, expression.is_null())] if feature.required else []
