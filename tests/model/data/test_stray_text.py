"""Text that is nearly a table: stray quotes, ends of lines, and booleans in lines of JSON."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest

from model.data.errors import DataError
from tests.support.logs import LOG, SCHEMA, prepare

QUOTE = "has a quote that begins a field and does not end it; double each quote"
CARRIAGE_RETURN = "has lines that end with a carriage return alone"
LINES = "\n".join(
    json.dumps(dict(zip(LOG.splitlines()[0].split(","), row.split(","), strict=True)))
    for row in LOG.splitlines()[1:]
)


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


@pytest.mark.parametrize(
    ("old", "new", "row"),
    [
        ("0,mug,0", '0,"mug,0', 4),
        ("1,ink,0", '1,"ink,0', 2),
        ("r1,ada,1,1,ink", '"r1,ada,1,1,ink', 2),
        ("1,ink,0", '1,"in"k,0', 2),
        ("request_id", '"request_id', None),
    ],
)
def test_a_quote_that_does_not_end_its_field_is_an_error_of_file_and_row(read, old, new, row):
    content = LOG.replace("1,mug", "0,mug").replace("0,pen", "1,pen").replace(old, new)
    place = "log.csv, column header" if row is None else f"log.csv, row {row}"
    for options in ((), ("--skip-bad-rows", "/dev/null")):
        with pytest.raises(DataError, match=re.escape(f"{place}: {QUOTE}")) as raised:
            read("log.csv", content, *options)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("items", [("ink", '9"'), ("ink", 'i"n"k'), ("ink", 'in"k')])
def test_a_quote_within_a_field_is_text(read, items):
    old, new = items
    expected = [item.replace(old, new) for item in ("tea", "ink", "pen", "mug")]
    content = LOG.replace(f",{old},", f",{new},")
    for text in (content, content.replace(",mug,", ',mu"g,')):
        rows, printed = read("log.csv", text)
        expected[-1] = 'mu"g' if 'mu"g' in text else "mug"
        assert rows["item_id"].to_list() == expected
    assert "log.csv has quotes within fields, which are read as text" in printed


@pytest.mark.parametrize(("name", "content"), [("log.csv", LOG), ("log.jsonl", LINES)])
def test_lines_that_end_with_carriage_returns_alone_are_refused_and_with_line_feeds_read(
    read, name, content
):
    with pytest.raises(DataError, match=rf"{re.escape(name)}: {CARRIAGE_RETURN}"):
        read(name, content.replace("\n", "\r"))
    assert len(read(name, content.replace("\n", "\r\n"))[0]) == 4


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
