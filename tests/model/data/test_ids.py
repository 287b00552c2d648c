"""Ids in logs and tables, by the rule of requests."""

from __future__ import annotations

import io
import json
import math
from decimal import Decimal

import polars as pl
import pytest

from model.data.errors import DataError
from model.data.ids import id_column
from service.engine.features.ids import BLANKS, read_id
from tests.support.logs import LOG, SCHEMA, prepare

GOOD = pl.read_csv(io.StringIO(LOG), infer_schema=False)
VALUES = [
    *("a", " a", "a ", f"{BLANKS}a b{BLANKS}", "\u200ba", "1", "1.0", "007", "-0", "", " ", BLANKS),
    *(0, 7, -7, 2**53 + 1, 2**63 - 1),
    *(0.0, -0.0, 9.0, -9.0, 2.0**53 - 1, 2.0**53, 1e30, 0.5, math.inf),
    *(True, False),
]


def read(value):
    try:
        return str(read_id(value))
    except ValueError:
        return None


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_the_same_id_in_a_column_as_in_a_request(value):
    frame = pl.DataFrame({"id": [value]})
    rules, text = id_column("id", frame.schema["id"])
    broken = frame.select(pl.any_horizontal(rule.violated for rule in rules)).item()
    assert (None if broken else frame.select(text).item()) == read(value)


def test_decimals_and_categoricals_are_read_as_their_text():
    for column, expected in (
        (pl.Series("id", [Decimal("12.00"), Decimal("-3.00")]), ["12", "-3"]),
        (pl.Series("id", [" x", "7"], pl.Categorical), ["x", "7"]),
        (pl.Series("id", [2**64 - 1], pl.UInt64), ["18446744073709551615"]),
    ):
        frame = pl.DataFrame({"id": column})
        rules, text = id_column("id", frame.schema["id"])
        broken = pl.any_horizontal(rule.violated for rule in rules).any()
        assert not frame.select(broken).item()
        assert frame.select(text)["id"].to_list() == expected


def number(log, name):
    """Return a log whose ids of a column are whole numbers as text."""
    codes = {value: str(code) for code, value in enumerate(log[name].unique(maintain_order=True))}
    return log.with_columns(pl.col(name).replace_strict(codes))


NUMBERED = number(number(number(GOOD, "request_id"), "user_id"), "item_id")
IDS = pl.col("request_id", "user_id", "item_id")
SPELLINGS = {
    "pandas": IDS.str.replace("^(.*)$", "${1}.0"),
    "blanks": IDS.str.replace("^(.*)$", " ${1}\u2003"),
    "both": IDS.str.replace("^(.*)$", " ${1}.00\t"),
    "some": pl.when(pl.int_range(pl.len()) == 3)
    .then(pl.col("item_id") + ".0")
    .otherwise("item_id")
    .alias("item_id"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_ids_gives_the_same_data_set(shop, spelling):
    tables = {"items": "item_id,genres\n0,a\n1,b\n2.0,c\n 3,d\n", "users": "user_id\n0.0\n"}
    names = ["impressions", "items", "users"]
    clean = shop(NUMBERED.write_csv(), **tables)
    expected = [(clean / f"{name}.parquet").read_bytes() for name in names]
    out = shop(NUMBERED.with_columns(SPELLINGS[spelling]).write_csv(), **tables)
    assert [(out / f"{name}.parquet").read_bytes() for name in names] == expected


def test_a_column_of_decimals_is_read_as_whole_numbers_and_named(shop, tmp_path):
    log = NUMBERED.with_columns(pl.col("item_id") + ".0", pl.col("hour") + ".0")
    shop(log.write_csv())
    inputs = ["--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml"]
    printed = prepare("impressions", *inputs, "--out", tmp_path / "shop").splitlines()
    lines = [line for line in printed if "with decimals" in line]
    text = "has whole numbers with decimals, such as 1.0"
    assert lines == [
        f"{tmp_path / 'shop'} log: column hour {text}; a request must send this very text",
        f"{tmp_path / 'shop'} log: column item_id {text}; they are read as 1",
    ]
    hours = pl.read_parquet(tmp_path / "shop" / "impressions.parquet")["hour"]
    assert hours.to_list() == ["9.0", "9.0", "10.0", "10.0"]


@pytest.mark.parametrize("other", ["x1", "1.5", "007", "1e3", "+1"])
def test_a_column_with_other_text_stays_text(shop, other):
    log = NUMBERED.with_columns(
        item_id=pl.Series([f" {other}", "1.0", "2.0", "3"]), user_id=pl.lit("1.0")
    )
    rows = pl.read_parquet(shop(log.write_csv()) / "impressions.parquet")
    assert rows["item_id"].to_list() == [other, "1.0", "2.0", "3"]
    assert rows["user_id"].unique().to_list() == ["1"]


@pytest.mark.parametrize(
    ("ids", "bits"),
    [
        (pl.Series([1.0, 2.0, 3.0, 2.0**53]), 53),
        (pl.Series([1.0, 2.0, 3.0, 2.0**24], dtype=pl.Float32), 24),
        (pl.Series(["1.0", "2.0", "3.0", "9007199254740992.0"]), 53),
    ],
)
def test_a_float_that_may_have_lost_digits_is_no_id(shop, ids, bits):
    log = NUMBERED.with_columns(item_id=ids)
    with pytest.raises(DataError, match=rf"row 4, column item_id: must be below 2\^{bits}, beyond"):
        shop(log if ids.dtype != pl.String else log.write_csv())


@pytest.mark.parametrize("value", ["true", "9007199254740993.0"])
@pytest.mark.parametrize("column", ["item_id", "hour"])
def test_a_boolean_or_inexact_float_in_json_lines_is_no_id(tmp_path, value, column):
    rows = GOOD.with_columns(pl.col("position", "timestamp", "label", "price").cast(pl.Float64))
    lines = [json.dumps(row) for row in rows.iter_rows(named=True)]
    old = GOOD[column][2]
    lines[2:] = [line.replace(f'"{column}": "{old}"', f'"{column}": {value}') for line in lines[2:]]
    (tmp_path / "log.jsonl").write_text("\n\n".join(lines))
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    inputs = ["--log", tmp_path / "log.jsonl", "--schema", tmp_path / "schema.yaml"]
    with pytest.raises(DataError, match=f"row 3, column {column}: must be text or a whole number"):
        prepare("impressions", *inputs, "--out", tmp_path / "shop")
    lines = [line.replace(f": {value}", f': "{value}"') for line in lines]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    prepare("impressions", *inputs, "--out", tmp_path / "shop")
    assert value in pl.read_parquet(tmp_path / "shop" / "impressions.parquet")[column].to_list()


def test_a_boolean_column_beside_one_of_text_is_no_id(tmp_path):
    (tmp_path / "log").mkdir()
    GOOD.write_parquet(tmp_path / "log" / "1.parquet")
    GOOD.with_columns(request_id=True).write_parquet(tmp_path / "log" / "2.parquet")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    inputs = ["--log", tmp_path / "log", "--schema", tmp_path / "schema.yaml"]
    with pytest.raises(DataError, match=r"2\.parquet, column request_id: must be text or a whole"):
        prepare("impressions", *inputs, "--out", tmp_path / "shop")


def test_a_table_without_an_id_of_the_log_is_refused_with_examples_of_both(shop):
    rule = "has none of its 4 items; the log has 'ink', 'mug', 'pen', the table 'INK', 'PEN'; "
    rule += "they differ in upper and lower case"
    with pytest.raises(DataError, match=rf"items\.csv, column item_id: must have ids .* {rule}"):
        shop(items="item_id,genres\nPEN,x\nINK,y\n")
    with pytest.raises(DataError, match=r"users\.csv, column user_id: must have ids of the log"):
        shop(users="user_id\nAda\n")


def test_a_partial_match_is_printed_as_a_share(shop, tmp_path):
    shop(items="item_id,genres\npen,x\nink,y\nhat,z\n", users="user_id\nada\n")
    (tmp_path / "log.csv").write_text(LOG)
    inputs = ["--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml"]
    inputs += ["--items", tmp_path / "items.csv", "--users", tmp_path / "users.csv"]
    lines = prepare("impressions", *inputs, "--out", tmp_path / "shop").splitlines()
    share = "items: 50.0 % of the log's 4 items are in the table; not, for example, 'mug', 'tea'"
    assert f"{tmp_path / 'shop'} {share}" in lines
    assert not any("users are in the table" in line for line in lines)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("1,0", "the ids of one are written with decimals; for decimal commas pass --decimal ,"),
        ("01", "the ids of one begin with zeros"),
        ("item-1", "the ids of one have a prefix"),
        ("9", "the table '9'"),
    ],
)
def test_a_table_without_an_id_of_the_log_is_refused_with_the_likely_reason(shop, table, reason):
    with pytest.raises(DataError) as error:
        shop(NUMBERED.write_csv(), items=f'item_id,genres\n"{table}",x\n')
    assert reason in str(error.value)


def test_whole_ids_with_decimal_commas_are_read_as_whole_numbers_and_named(tmp_path):
    log = NUMBERED.with_columns(IDS.str.replace("^(.*)$", "${1},0"), price=pl.lit("1,5"))
    (tmp_path / "log.csv").write_text(log.write_csv(separator=";"))
    (tmp_path / "items.csv").write_text("item_id;genres\n1;x\n")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    inputs = ["--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml"]
    inputs += ["--items", tmp_path / "items.csv", "--delimiter", ";", "--decimal", ","]
    printed = prepare("impressions", *inputs, "--out", tmp_path / "shop")
    assert "item_id has whole numbers with decimals, such as 1,0; they are read as 1" in printed
    rows = pl.read_parquet(tmp_path / "shop" / "impressions.parquet")
    assert rows["item_id"].to_list() == NUMBERED["item_id"].to_list()


@pytest.mark.parametrize("price", ["1.234", "1.234,50", "8.00"])
def test_a_point_is_no_decimal_mark_beside_decimal_commas_and_is_quoted(tmp_path, price):
    log = GOOD.with_columns(price=pl.Series(["1,5", "-2,25e1", "3", price]))
    (tmp_path / "log.csv").write_text(log.write_csv(separator=";"))
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    inputs = ["--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml"]
    inputs += ["--delimiter", ";", "--decimal", ",", "--out", tmp_path / "shop"]
    hint = "must be a finite number; with --decimal , a point is no part of a number, not even"
    with pytest.raises(DataError, match=rf"row 4, column price: {hint} .*, got '{price}'"):
        prepare("impressions", *inputs)
    prepare("impressions", *inputs, "--skip-bad-rows", tmp_path / "bad.jsonl")
    assert json.loads((tmp_path / "bad.jsonl").read_text())["data"]["price"] == price
    rows = pl.read_parquet(tmp_path / "shop" / "impressions.parquet")
    assert rows["price"].to_list() == [1.5, -22.5, 3.0]
