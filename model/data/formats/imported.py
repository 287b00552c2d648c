"""A log of another format, converted to the columns of docs/data.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.data.dialect import Dialect
from model.data.files import Files
from model.data.scan import ROW, unreadable


@dataclass
class Imported(Files):
    """A converted table; errors name the files that its rows come from.

    origins  Parquet file with the number of the original row, ROW, of each row
    source   files of the original rows
    """

    origins: Path | None = None
    source: Files | None = None

    def locate(self, row: int) -> tuple[Path, int]:
        """Return the original file of a row that is counted from 1, and its row there."""
        assert self.origins is not None
        assert self.source is not None
        origin = pl.scan_parquet(self.origins).slice(row - 1, 1).collect()
        return self.source.locate(int(origin[ROW].item()))


def write_table(files: Files, rows: pl.LazyFrame, name: str, scratch: Path) -> Imported:
    """Write converted rows, which have the number of their original row, ROW, into `scratch`.

    Raises DataError if the files cannot be read.
    """
    whole, table = scratch / f"{name}.parquet", scratch / f"{name}.table.parquet"
    origins = scratch / f"{name}.origins.parquet"
    try:
        rows.sink_parquet(whole)
    except pl.exceptions.PolarsError as error:
        raise unreadable(files, error) from None
    pl.scan_parquet(whole).drop(ROW).sink_parquet(table)
    pl.scan_parquet(whole).select(ROW).sink_parquet(origins)
    whole.unlink()
    return Imported(
        (table,),
        files.arguments,
        Dialect(),
        remarks=files.remarks,
        origins=origins,
        source=files,
    )
