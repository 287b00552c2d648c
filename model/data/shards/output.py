"""Write the rows of a piece as a file of the data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from model.data.entities import ORDER, TRAIN, value_at
from model.data.entity_tables import TIME
from model.data.layout import COLUMNS
from model.data.rated_rows import BUCKET
from model.data.shards.counts import FOLDS, events_name, queries_name
from model.data.shards.exchange import read_addressed
from model.data.shards.items import TRAIN_VALUE
from model.data.shards.plan import FOLD, Piece, Plan

ROWS = "rows.parquet"


@dataclass(frozen=True)
class TimedTable:
    """A table of items or users whose values change: its file and features."""

    path: Path
    key: str
    names: tuple[str, ...]


def write(
    directory: Path,
    plan: Plan,
    merged: Sequence[Path],
    tables: Sequence[TimedTable],
    piece: Piece,
) -> dict[str, Any]:
    """Write the rows of a piece by list in time and then position; returns size and SHA-256.

    Args:
        merged: directories of the partitions of the items.
        tables: of the caller, whose values count at the time of each list.
    """
    rows = plan.rows(piece).collect(engine="streaming")
    for table in tables:
        for name in table.names:
            rows = _fill_from_table(rows, table, name, plan.cutoff)
    for name in plan.lacking:
        answers = _answers(merged, queries_name(name, plan), piece)
        rows = _fill(rows, "item_id", name, answers)
    rows = _add_statistics(rows, plan, merged, piece)
    columns = [*COLUMNS, *(name for name in plan.inline if name not in COLUMNS)]
    rows = rows.sort(ORDER, "position").select(columns)
    path = directory / ROWS
    rows.write_parquet(path, row_group_size=1 << 18)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"rows": len(rows), "bytes": path.stat().st_size, "sha256": digest}


def _answers(merged: Sequence[Path], name: str, piece: Piece) -> pl.DataFrame:
    paths = [path / name for path in merged]
    return read_addressed(paths, piece.number).collect(engine="streaming")


def _fill_from_table(
    rows: pl.DataFrame, table: TimedTable, name: str, cutoff: int | None
) -> pl.DataFrame:
    """Return rows with a feature of a caller's table at the time of their lists."""
    key = table.key
    lacking = rows.filter(pl.col(name).is_null()) if name in rows.columns else rows
    places = lacking.select(key, TIME, TRAIN).unique()
    values = pl.scan_parquet(table.path).select(key, TIME, name).drop_nulls(name)
    values = values.join(places.lazy().select(key).unique(), on=key, how="semi")
    history = values.sort(TIME, key).collect()
    return _fill(rows, key, name, value_at(places, key, name, history, cutoff))


def _fill(rows: pl.DataFrame, key: str, name: str, values: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the values of a feature at key, TIME and TRAIN where they have none."""
    other = f"__{name}"
    joined = rows.join(
        values.rename({name: other}), on=[key, TIME, TRAIN], how="left", maintain_order="left"
    )
    present = [name] if name in rows.columns else []
    return joined.with_columns(pl.coalesce(*present, other).alias(name)).drop(other)


def _add_statistics(
    rows: pl.DataFrame, plan: Plan, merged: Sequence[Path], piece: Piece
) -> pl.DataFrame:
    """Return rows with the statistics of their items: at their time, or out of their fold."""
    clocks = plan.clocks()
    for width in plan.widths():
        values = _answers(merged, events_name(width), piece)
        rows = rows.with_columns((pl.col(TIME) // width).alias(BUCKET))
        rows = rows.join(values, on=["item_id", BUCKET], how="left", maintain_order="left")
        for name, clock in clocks.items():
            if clock.bucket == width and not plan.moment.ordered:
                of_train = pl.when(TRAIN).then(TRAIN_VALUE.format(name)).otherwise(name)
                rows = rows.with_columns(of_train.alias(name))
    if plan.folds and plan.statistics:
        values = _answers(merged, FOLDS, piece).rename({"fold": FOLD})
        rows = rows.join(values, on=["item_id", FOLD], how="left", maintain_order="left")
    return rows
