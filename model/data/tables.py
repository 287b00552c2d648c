"""Read tables column by column, and name the first row that breaks a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data.errors import DataError
from model.data.files import Files
from model.data.scan import ROW, split_parts, unreadable
from service.engine.features.schema import Feature

DTYPES: dict[str, Any] = {
    "identifier": pl.String,
    "category": pl.String,
    "categories": pl.List(pl.String),
    "number": pl.Float64,
    "statistic": pl.Float64,
    "vector": pl.List(pl.Float32),
}
TEXT = "must be text or a whole number"
REQUIRED = "is required by the schema"
COMPUTED = "is a statistic, which prepare computes; remove the column"


@dataclass(frozen=True)
class Rule:
    """A rule for a column: `violated` is true, never null, on rows that break the rule `text`."""

    column: str
    text: str
    violated: pl.Expr


def require_columns(
    path: Path | Files, dtypes: pl.Schema, columns: Sequence[str], kind: str = "file"
) -> None:
    """Raise DataError if a scanned file lacks one of `columns`; the message lists its columns."""
    for column in columns:
        if column not in dtypes:
            present = ", ".join(name for name in dtypes.names() if name != ROW)
            raise DataError(path, f"is missing; the {kind} has {present}", column=column)


def check_rows(
    path: Path | Files, frame: pl.LazyFrame, rules: Sequence[Rule], empty_lists: bool = False
) -> None:
    """Check all rules in one pass, and raise DataError for the first row that breaks one.

    Args:
        empty_lists: report a request whose rows all lack an item as a request without candidates.
    """
    first_violations = [
        pl.col(ROW).filter(r.violated).min().alias(str(i)) for i, r in enumerate(rules)
    ]
    try:
        first_rows = frame.select(first_violations).collect(engine="streaming").row(0)
    except pl.exceptions.PolarsError as error:
        raise unreadable(path, error) from None
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
            text = f"must name at least one candidate for request {request!r}"
            raise DataError(path, text, row=row, column="item_id", value=None)
    raise DataError(path, rule.text, row=row, column=rule.column, value=offending[rule.column])


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


def id_rule(column: str, value: pl.Expr | None = None) -> Rule:
    """Return the rule that an id, by default the column cast to text, is neither null nor blank."""
    text = pl.col(column).cast(pl.String) if value is None else value
    blank = text.str.strip_chars().fill_null("") == ""
    return Rule(column, "must be an id, neither null nor blank", blank)


def id_column(column: str, dtype: pl.DataType) -> tuple[list[Rule], pl.Expr]:
    """Return the rules for an id column, and its value as text."""
    value, violated = _read_as_text(pl.col(column), dtype)
    return [Rule(column, TEXT, violated), id_rule(column, value)], value


def _read_as_text(value: pl.Expr, dtype: pl.DataType) -> tuple[pl.Expr, pl.Expr]:
    """Return `value` as text, as the service reads it, and where it is no text or whole number.

    Many tools write a column of whole numbers and nulls as floats. So 1.0 is read as the 1 of a
    request, and NaN as null.
    """
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        read = pl.when(whole == value).then(whole).cast(pl.String)
        return read, (value.is_not_nan() & read.is_null()).fill_null(False)
    if dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return value.cast(pl.String), pl.lit(False)
    return pl.lit(None, pl.String), value.is_not_null()


def whole_number(column: str, dtype: pl.DataType, to: Any) -> tuple[Rule, pl.Expr]:
    """Return the rule that `column` holds whole numbers (or times for timestamp), and its value."""
    if column == "timestamp" and dtype.is_temporal():
        value = pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
        return Rule(column, "must be a time", value.is_null()), value
    value = pl.col(column).cast(to, strict=False)
    violated = value.is_null()
    if dtype.is_float():
        violated = (violated | (value != pl.col(column))).fill_null(True)
    return Rule(column, "must be a whole number", violated), value


def feature_column(
    path: Path | Files, feature: Feature, dtype: pl.DataType
) -> tuple[Rule, pl.Expr]:
    """Return the rule for a feature's column, and its value. Lists in text are `|`-separated.

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
    if feature.kind == "categories" and is_list:
        element, other = _read_as_text(pl.element(), inner)
        expression = column.list.eval(element.drop_nulls())
        rule, violated = TEXT, column.list.eval(other).list.any()
    elif feature.slots:
        expression, violated = _read_as_text(column, dtype)
        rule = TEXT
        if feature.kind == "categories":
            expression = split_parts(expression, "|")
    elif feature.kind == "vector":
        numbers = column if is_list else split_parts(column.cast(pl.String), "|")
        expression = numbers.list.eval(pl.element().cast(DTYPES["vector"].inner, strict=False))
        rule = f"must hold {feature.width} finite numbers"
        good = expression.list.eval(pl.element().is_finite().fill_null(False)).list.all()
        violated = column.is_not_null() & ((expression.list.len() != feature.width) | ~good)
    else:
        expression = column.cast(DTYPES[feature.kind], strict=False)
        rule = "must be a finite number"
        violated = column.is_not_null() & ~expression.is_finite().fill_null(False)
    return Rule(feature.name, rule, violated.fill_null(False)), expression


def required_rules(feature: Feature, expression: pl.Expr) -> list[Rule]:
    """Return the rule that a required feature, with the value `expression`, is not null."""
    return [Rule(feature.name, REQUIRED, expression.is_null())] if feature.required else []
