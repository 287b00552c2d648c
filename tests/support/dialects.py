"""Write rows as files of many formats and dialects."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from model.data.dialect import Dialect

TEXTS = ("csv", "tsv", "jsonl", "ndjson", "CSV", "JSONL")
Row = dict[str, Any]


def write_rows(
    directory: Path, stem: str, rows: Sequence[Row], dialect: Dialect, rng: random.Random
) -> Path:
    """Write rows in a format of chance, with columns in an order of chance, and return the path."""
    names = [*rows[0]]
    rng.shuffle(names)
    ordered = [{name: row[name] for name in names} for row in rows]
    suffix = rng.choice((*TEXTS, "parquet", "pq"))
    if suffix in ("parquet", "pq"):
        path = directory / f"{stem}.{suffix}"
        frame = pl.DataFrame(ordered, infer_schema_length=None)
        _vary_types(frame, rng).write_parquet(path)
        return path
    packing = rng.choice(("", ".gz", ".zst", ".GZ"))
    packing = "" if packing == ".zst" and dialect.encoding != "utf-8" else packing
    path = directory / f"{stem}.{suffix}{packing}"
    if suffix.lower() in ("jsonl", "ndjson"):
        objects = [ordered[0], *(_sparse(row, rng) for row in ordered[1:])]
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in objects)
    else:
        text = _csv(ordered, dialect, "\t" if suffix == "tsv" else dialect.delimiter, rng)
    content = text.encode(dialect.encoding)
    if packing.lower() == ".gz":
        content = gzip.compress(content)
    if packing == ".zst":
        lines = pl.LazyFrame({"line": text.split("\n")[:-1]})
        lines.sink_csv(path, compression="zstd", include_header=False, quote_style="never",
                       check_extension=False)  # fmt: skip
    else:
        path.write_bytes(content)
    return path


def _vary_types(frame: pl.DataFrame, rng: random.Random) -> pl.DataFrame:
    """Return the same values in other types that a Parquet file may have."""
    changes: dict[str, Sequence[Any]] = {
        "item_id": (pl.String, pl.Int64, pl.Float64, pl.Categorical),
        "position": (pl.Int64, pl.UInt8, pl.Float64),
        "label": (pl.Int64, pl.Float32, pl.Boolean),
        "price": (pl.Float64, pl.Decimal(12, 3)),
        "hour": (pl.Int32, pl.String, pl.Float64),
    }
    for name, types in changes.items():
        kind = rng.choice(types)
        whole = name == "item_id" and kind != pl.Categorical
        frame = frame.with_columns(
            (frame[name].cast(pl.Int64) if whole else frame[name]).cast(kind)
        )
    if rng.random() < 0.5:
        unit = rng.choice((pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns")))
        frame = frame.with_columns(pl.from_epoch("timestamp", "ms").cast(unit))
    return frame


def _sparse(row: Row, rng: random.Random) -> Row:
    """Leave out keys that are null, as writers of JSON may do; ids may be numbers."""
    row = {name: value for name, value in row.items() if value is not None or rng.random() < 0.5}
    return {**row, "item_id": int(row["item_id"])} if rng.random() < 0.5 else row


def _csv(rows: Sequence[Row], dialect: Dialect, delimiter: str, rng: random.Random) -> str:
    decimals, blank = rng.choice(("", "", ".0")), rng.choice(("", "", " ", "\xa0"))

    def cell(name: str, value: Any) -> Any:
        if name == "item_id":  # as pandas and people write ids
            return f"{blank}{value}{decimals}{blank}"
        if isinstance(value, list):
            return dialect.list_separator.join(value)
        if isinstance(value, float):
            return str(value).replace(".", dialect.decimal)
        return value

    text = io.StringIO()
    options: dict[str, Any] = {
        "delimiter": delimiter,
        "quoting": rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC)),
        "lineterminator": rng.choice(("\n", "\r\n")),
    }
    writer = csv.DictWriter(text, [*rows[0]], **options)
    writer.writeheader()
    writer.writerows({name: cell(name, value) for name, value in row.items()} for row in rows)
    bom = "\ufeff" if dialect.encoding == "utf-8" and rng.random() < 0.3 else ""
    return bom + text.getvalue()
