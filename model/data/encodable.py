"""Check that the fitted featuriser takes every number of a data set, so that none fails later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from model.data.errors import DataError
from service.engine.features.encoding import LARGEST
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema


def check_encodable(file: str, rows: pl.LazyFrame, schema: Schema, ids: Sequence[str]) -> None:
    """Check the numbers of all splits against the fit on train alone.

    A number that hardly varies in train, and then does, is too many deviations from its mean.

    Args:
        file: name of the file for errors.
        schema: the fitted schema.
        ids: columns that name a row.

    Raises DataError that names a row with such a number.
    """
    columns = rows.collect_schema().names()
    features = [f for f in schema.features if f.kind in NUMBER_KINDS and f.name in columns]
    broken = [_is_broken(feature).any().alias(feature.name) for feature in features]
    if not broken:
        return
    (flags,) = rows.select(broken).collect(engine="streaming").to_dicts()
    for feature in features:
        if not flags[feature.name]:
            continue
        first = rows.filter(_is_broken(feature)).select(*ids, feature.name).head(1).collect()
        (row,) = first.to_dicts()
        place = ", ".join(f"{name} {row[name]!r}" for name in ids)
        rule = f"must be within {LARGEST:.0e} deviations of the train mean, but is not for {place};"
        rule += f" the values of train have mean {feature.mean:.3g} and deviation {feature.std:.3g}"
        rule += "" if feature.transform == "none" else f" after transform {feature.transform}"
        raise DataError(Path(file), rule, column=feature.name, value=row[feature.name])


def _is_broken(feature: Feature) -> pl.Expr:
    """Return where the encoded number is too large; null is no number."""
    value = pl.col(feature.name).cast(pl.Float64)
    if feature.transform == "log":
        value = pl.max_horizontal(value, 0.0).log1p()
    return (((value - feature.mean) / feature.std).abs() > LARGEST).fill_null(False)
