"""Ids in logs and tables, by the rule of service.engine.features.ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from model.data.files import Files
from model.data.rules import Rule
from service.engine.features.ids import BLANKS, EXACT_FLOATS

TEXT = "must be text or a whole number"
BLANK = "must be an id, neither null nor blank"
INEXACT = "must be below 2^{}, beyond which floats do not hold every whole number"
# Text by which many tools write a column of whole numbers that has nulls.
DECIMALS = r"\.0+$"
# With decimal commas, .000 may end a whole number with points between thousands.
COMMA_DECIMALS = r"(?:,0+|\.0{1,2})$"
WHOLE = r"^-?(?:0|[1-9][0-9]*)(?:{})?$"
SAMPLE = 1000  # rows that must look like whole numbers before all rows are read


def id_column(
    column: str,
    dtype: Any,
    decimals: bool = False,
    required: bool = True,
    files: Path | Files | None = None,
) -> tuple[list[Rule], pl.Expr]:
    """Return the rules for an id column, and its value as text; null where it is null or blank.

    Args:
        decimals: the text holds whole numbers with decimals (see find_decimals).
        required: refuse null and blank.
        files: the input, whose dialect says how decimals are written.
    """
    value, violated = read_text(pl.col(column), dtype)
    rules = [Rule(column, TEXT, violated)]
    ending = _decimals(files)
    if dtype.is_float() or decimals:
        text = pl.col(column)
        if decimals:
            text = text.str.replace_all(",", ".", literal=True)
        number = text.cast(pl.Float64, strict=False).abs()
        bits = 24 if dtype == pl.Float32 else EXACT_FLOATS.bit_length() - 1
        written = dtype.is_float() or _strip(pl.col(column)).str.contains(ending)
        inexact = (number.is_finite() & (number >= 2.0**bits) & written).fill_null(False)
        rules.insert(0, Rule(column, INEXACT.format(bits), inexact))
    value = _strip(value)
    if decimals:
        value = value.str.replace(ending, "").replace("-0", "0")
    if required:
        rules.append(id_rule(column, value))
    return rules, pl.when(value != "").then(value)


def id_rule(column: str, value: pl.Expr | None = None) -> Rule:
    """Return the rule that an id, by default the column cast to text, is neither null nor blank."""
    text = _strip(pl.col(column)) if value is None else value
    return Rule(column, BLANK, text.fill_null("") == "")


def _decimals(files: Path | Files | None) -> str:
    """Return the pattern of the decimals of a whole number."""
    comma = isinstance(files, Files) and files.decimal_comma
    return COMMA_DECIMALS if comma else DECIMALS


def _strip(value: pl.Expr) -> pl.Expr:
    return value.cast(pl.String).str.strip_chars(BLANKS)


def read_text(value: pl.Expr, dtype: Any) -> tuple[pl.Expr, pl.Expr]:
    """Return `value` as text, as the service reads it, and where it is no text or whole number.

    Many tools write a column of whole numbers and nulls as floats. So 1.0 is read as the 1 of a
    request, and NaN as null.
    """
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        read = pl.when(whole == value).then(whole).cast(pl.String)
        return read, (value.is_not_nan() & read.is_null()).fill_null(False)
    if dtype.is_decimal():
        text = value.cast(pl.String).str.replace(DECIMALS, "")
        fraction = text.str.contains(".", literal=True)
        return pl.when(~fraction).then(text), fraction.fill_null(False)
    if dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return value.cast(pl.String), pl.lit(False)
    return pl.lit(None, pl.String), value.is_not_null()


def find_decimals(files: Files, frame: pl.LazyFrame, kinds: Mapping[str, str]) -> set[str]:
    """Return the identifiers whose text is whole numbers only, some of them written as 1.0.

    A column that also holds other text, such as x1 or 007, stays as it is. A remark says how such
    columns are read; categories are always read as they are.

    Args:
        kinds: kind of each column.
    """
    single = [name for name, kind in kinds.items() if kind in ("identifier", "category")]
    written = _columns_of_decimals(frame, single, _decimals(files))
    example = "1,0" if files.decimal_comma and not files.decimal_point else "1.0"
    for name in sorted(written):
        text = f"column {name} has whole numbers with decimals, such as {example}"
        if kinds[name] == "identifier":
            files.remarks.append(f"{text}; they are read as 1")
        else:
            files.remarks.append(f"{text}; a request must send this very text")
    return {name for name in written if kinds[name] == "identifier"}


def _columns_of_decimals(frame: pl.LazyFrame, columns: Sequence[str], decimals: str) -> set[str]:
    dtypes = frame.collect_schema()
    rule = WHOLE.format(decimals.removesuffix("$"))
    names = [name for name in columns if name in dtypes and dtypes[name] == pl.String]
    for rows in (frame.head(SAMPLE), frame):
        if not names:
            return set()
        texts = {name: _strip(pl.col(name)) for name in names}
        whole = [
            ((text == "") | text.str.contains(rule)).fill_null(True).all().alias(name)
            for name, text in texts.items()
        ]
        some = [text.str.contains(decimals).any().alias(f"some {n}") for n, text in texts.items()]
        (flags,) = rows.select(*whole, *some).collect(engine="streaming").to_dicts()
        names = [name for name in names if flags[name]]
    return {name for name in names if flags[f"some {name}"]}
