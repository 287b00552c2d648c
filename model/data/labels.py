"""Expressions of positives and gains over the column `label` of canonical rows."""

from __future__ import annotations

import math

import polars as pl

from service.engine.features.schema import LabelScale

ROUNDING = 2.0**30


def is_positive(scale: LabelScale) -> pl.Expr:
    """Return the expression of `LabelScale.is_positive`, Boolean."""
    label, threshold = pl.col("label"), scale.threshold
    return label > 0.5 if threshold is None else label >= threshold


def gain(scale: LabelScale) -> pl.Expr:
    """Return the expression of `LabelScale.gain`, Float64; of binary labels 0 or 1, Int64.

    A graded gain is rounded to a multiple of 2^-30, so that the sum over millions of rows is exact
    and does not depend on their order.
    """
    if not scale.is_graded:
        return is_positive(scale).cast(pl.Int64)
    gains = pl.col("label").cast(pl.Float64)
    if scale.gain_form == "exponential":
        grade = gains * (scale.span * math.log(2.0))
        gains = (grade.exp() - 1.0) / (2.0**scale.span - 1.0)
    return (gains * ROUNDING).round() / ROUNDING


def has_grades(rows: pl.LazyFrame) -> bool:
    """Return true if the labels have more than two distinct values."""
    label = pl.col("label")
    low, high = rows.select(low=label.min(), high=label.max()).collect(engine="streaming").row(0)
    between = rows.select(((label > low) & (label < high)).any())
    return bool(between.collect(engine="streaming").item())
