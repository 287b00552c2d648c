"""Text that is nearly a table: stray quotes, ends of lines, and booleans in lines of JSON."""

from __future__ import annotations

import polars as pl
import pytest

from model.data.errors import DataError
from tests.support.logs import LOG, SCHEMA, prepare


@pytest.fixture
def read(tmp_path):
    """Return a function that prepares a log and returns its rows and the output."""

    def run(name, content, *options):
        (tmp_path / "schema.yaml").write_text(SCHEMA)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        log = ("--log", tmp_path / name, "--schema", tmp_path / "schema.yaml")
        printed = prepare("impressions", *log, *options, "--out", tmp_path / "out")
        return pl.read_parquet(tmp_path / "out" / "impressions.parquet"), printed

    return run


def test_booleans_are_the_same_labels_and_numbers_in_lines_of_json_as_in_parquet(read, tmp_path):
    frame = pl.read_csv(LOG.encode()).with_columns(
        pl.col("label").cast(pl.Boolean), price=pl.Series([True, False, None, True])
    )
    for name, write in (("log.jsonl", frame.write_ndjson), ("log.parquet", frame.write_parquet)):
        write(tmp_path / name)
        rows, _ = read(name, (tmp_path / name).read_bytes())
        assert rows["label"].to_list() == [1.0, 0.0, 1.0, 0.0]
        assert rows["price"].to_list() == [1.0, 0.0, None, 1.0]


@pytest.mark.parametrize("text", ["true", "1.5"])
def test_a_boolean_is_no_label_of_a_csv_and_a_label_beyond_its_range_is_refused(read, text):
    with pytest.raises(DataError, match=r"log\.csv, row 1, column label: must be"):
        read("log.csv", LOG.replace("tea,1", f"tea,{text}"))
