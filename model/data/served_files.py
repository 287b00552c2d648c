"""Write the lists of a join to a data set as they were served: all candidates, and histories."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from model.data.errors import DataError
from model.data.join import tables
from model.data.join.state import check_schema
from model.data.layout import CANDIDATES, HISTORIES
from model.data.served_lists import PARTIAL, RANK
from service.engine.features.schema import Schema


def files_of(joined: Path) -> list[Path]:
    """Return the files of a join that `write_served` reads. Raises DataError for no join."""
    names = (tables.REQUESTS, tables.IMPRESSIONS, tables.CANDIDATES, tables.HISTORIES)
    files = [path for name in names for path in sorted((joined / name).glob("*.parquet"))]
    if not files:
        rule = "must be a directory that `python -m model join` wrote lists to"
        raise DataError(Path("--served"), rule, value=str(joined))
    return files


def write_served(directory: Path, joined: Path, schema: Schema) -> None:
    """Write candidates.parquet and histories.parquet of a data set from the files of a join.

    Rows are streamed. Raises DataError if the lists were joined with another schema.
    """
    check_schema(joined, schema)
    parts = sorted(path.name for path in (joined / tables.REQUESTS).glob("*.parquet"))
    rows = [frame for name in parts for frame in _candidates(joined, name, schema)]
    pl.concat(rows).sink_parquet(directory / CANDIDATES, row_group_size=1 << 18)
    none = pl.LazyFrame(schema=dict(tables.HISTORY_TYPES))
    entries = [pl.scan_parquet(path) for path in sorted((joined / tables.HISTORIES).glob("*"))]
    pl.concat([none, *entries]).sink_parquet(directory / HISTORIES, row_group_size=1 << 18)


def _candidates(joined: Path, part: str, schema: Schema) -> list[pl.LazyFrame]:
    """Return the candidates of a part, with values as served and the features of the user."""
    users = [feature.name for feature in tables.user_features(schema)]
    lists = pl.scan_parquet(joined / tables.REQUESTS / part).select(
        "request_id", pl.col("partial").alias(PARTIAL), *users
    )
    files = [joined / name / part for name in (tables.IMPRESSIONS, tables.CANDIDATES)]
    names = ["request_id", RANK, "item_id", *(f.name for f in tables.row_features(schema))]
    return [
        pl.scan_parquet(file)
        .with_columns(pl.col("rank").alias(RANK), *_statistics(schema))
        .select(names)
        .join(lists, on="request_id", how="left", maintain_order="left")
        for file in files
        if file.exists()
    ]


def _statistics(schema: Schema) -> list[pl.Expr]:
    """Return each statistic as it was served, or else as the request had it."""
    exact = tables.served_statistics(schema)
    return [
        pl.coalesce(
            *([f"{tables.SERVED}{f.name}"] if f.name in exact else []), f"{tables.INLINE}{f.name}"
        ).alias(f.name)
        for f in schema.features
        if f.kind == "statistic"
    ]
