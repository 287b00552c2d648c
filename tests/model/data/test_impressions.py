"""Reading valid and invalid logs of impressions."""

from __future__ import annotations

import io
import math
import re

import polars as pl
import pytest

from model.data.errors import DataError
from tests.support.logs import HEADER, LOG, SCHEMA


def test_a_parquet_log_gives_the_same_rows_as_a_csv(shop):
    rows = pl.read_parquet(shop() / "impressions.parquet")
    log = pl.read_csv(io.StringIO(LOG)).with_columns(
        pl.col("genres").str.split("|"), pl.from_epoch("timestamp", "ms")
    )
    assert pl.read_parquet(shop(log) / "impressions.parquet").equals(rows)


def test_without_timestamps_the_order_of_rows_stands_for_time(shop):
    log = pl.read_csv(io.StringIO(LOG)).drop("timestamp").reverse()
    rows = pl.read_parquet(shop(log) / "impressions.parquet")
    assert rows["request_id"].to_list() == ["r2", "r2", "r1", "r1"]
    assert rows["split"].to_list() == ["train", "train", "test", "test"]
    assert rows["timestamp"].to_list() == [1, 1, 3, 3]


def test_a_split_in_the_log_is_kept(shop):
    log = pl.read_csv(io.StringIO(LOG)).with_columns(
        split=pl.Series(["history", "history", "train", "train"])
    )
    rows = pl.read_parquet(shop(log) / "impressions.parquet")
    assert rows["split"].to_list() == ["history", "history", "train", "train"]


def test_tables_give_item_and_user_features_and_the_log_overrides_them_inline(shop):
    schema = SCHEMA + "  - {name: age, of: user, kind: number}\n"
    out = shop(
        schema=schema,
        items="item_id,genres\ntea,leaf\nhat,\n",
        users="user_id,age\nada,36\n",
    )
    items = pl.read_parquet(out / "items.parquet")
    assert items["item_id"].to_list() == ["hat", "ink", "mug", "pen", "tea"]
    assert dict(zip(items["item_id"], items["genres"], strict=True))["tea"].to_list() == ["leaf"]
    rows = pl.read_parquet(out / "impressions.parquet")
    assert rows["genres"][0].to_list() == ["drink", "hot"]
    assert pl.read_parquet(out / "users.parquet").rows() == [("ada", 36.0)]


def test_vectors_are_read_from_csv(shop):
    schema = "name: s\nfeatures:\n  - {name: v, of: item, kind: vector, width: 2}\n"
    log = "request_id,user_id,position,item_id,label,v\nr,u,0,a,1,0.5|2\nr,u,1,b,0,\n"
    items = pl.read_parquet(shop(log, schema) / "items.parquet")
    assert items["v"].to_list() == [[0.5, 2.0], None]
    for bad in ("0.5", "0.5|x", "0.5|nan"):
        with pytest.raises(
            DataError, match=r"row 1, column v: must hold 2 finite numbers, got '0.5"
        ):
            shop(log.replace("0.5|2", bad), schema)


SAME = "must be the same in all rows of a request"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("position", "-1", "row 2, column position: must be at least 0, got '-1'"),
        (
            "position",
            "0",
            "row 2, column position: must occur once per request; request 'r1' has it in row 1",
        ),
        ("position", "1.5", "row 2, column position: must be a whole number, got '1.5'"),
        (
            "item_id",
            "tea",
            "row 2, column item_id: must occur once per request; request 'r1' has it in row 1",
        ),
        ("item_id", "", "row 2, column item_id: must be an id, neither null nor blank, got null"),
        ("user_id", " ", f"row 2, column user_id: {SAME}; request 'r1' began with 'ada', got null"),
        (
            "request_id",
            "",
            "row 2, column request_id: must be an id, neither null nor blank, got null",
        ),
        ("user_id", "bob", f"row 2, column user_id: {SAME}; request 'r1' began with 'ada'"),
        ("hour", "10", f"row 2, column hour: {SAME}; request 'r1' began with '9'"),
        ("label", "2", "row 2, column label: must be between 0 and 1, got '2'"),
        ("label", "", "row 2, column label: must be a number, got null"),
        ("label", "nan", "row 2, column label: must be a number, got 'nan'"),
        ("label", "yes", "row 2, column label: must be a number, got 'yes'"),
        (
            "timestamp",
            "noon",
            "row 2, column timestamp: must be a whole number of ms, or ISO 8601, got 'noon'",
        ),
        ("price", "inf", "row 2, column price: must be a finite number, got 'inf'"),
        ("price", "cheap", "row 2, column price: must be a finite number, got 'cheap'"),
        ("price", "1,2", "row 2: must have 9 fields, got 10"),
    ],
)
def test_a_bad_value_is_reported_with_its_row_column_rule_and_value(shop, column, value, message):
    lines = LOG.splitlines()
    cells = lines[2].split(",")
    cells[HEADER.strip().split(",").index(column)] = value
    lines[2] = ",".join(cells)
    with pytest.raises(DataError, match=re.escape(f"log.csv, {message}")):
        shop("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            pl.read_csv(io.StringIO(LOG)).with_columns(label=math.nan),
            "column label: must be a number, got nan",
        ),
        (
            pl.read_csv(io.StringIO(LOG)).with_columns(position=0.5),
            "must be a whole number, got 0.5",
        ),
        (
            pl.read_csv(io.StringIO(LOG)).with_columns(item_id=None),
            "must name at least one candidate",
        ),
        (
            pl.read_csv(io.StringIO(LOG)).with_columns(split=pl.lit("dev")),
            "must be one of train, valid",
        ),
        (
            pl.read_csv(io.StringIO(LOG)).with_columns(split=pl.lit("test")),
            "must have at least one request of split train",
        ),
        (
            pl.read_csv(io.StringIO(LOG)).with_columns(like_rate=0.5),
            "is a statistic, which prepare computes",
        ),
        (pl.read_csv(io.StringIO(LOG)).with_columns(hour=["a"]), "must hold one value per row"),
        (pl.read_csv(io.StringIO(LOG)).clear(), "must have at least one row"),
        *(
            (pl.read_csv(io.StringIO(LOG)).with_columns(value.alias(name)), f"{name}: {rule}")
            for name, value, rule in (
                ("user_id", pl.lit(1.5), "must be text or a whole number, got 1.5"),
                ("item_id", pl.lit(math.nan), "must be an id, neither null nor blank, got nan"),
                ("request_id", pl.lit(True), "must be text or a whole number, got True"),
                ("hour", pl.lit(1.5), "must be text or a whole number, got 1.5"),
                ("hour", pl.lit(math.inf), "must be text or a whole number, got inf"),
                ("hour", pl.lit(True), "must be text or a whole number, got True"),
                ("genres", pl.lit(2.5), "must be text or a whole number, got 2.5"),
                ("genres", pl.lit([1.0, 2.5]), "must be text or a whole number, got [1.0, 2.5]"),
                ("genres", pl.lit([False]), "must be text or a whole number, got [False]"),
            )
        ),
    ],
)
def test_a_bad_parquet_log_is_reported(shop, log, message):
    with pytest.raises(DataError, match=r"log\.parquet") as caught:
        shop(log)
    assert message in str(caught.value)


@pytest.mark.parametrize("log", ["", HEADER])
def test_an_empty_log_is_reported(shop, log):
    with pytest.raises(DataError, match=r"log\.csv: must have at least one row, got an empty file"):
        shop(log)


def test_a_request_without_candidates_is_reported(shop):
    with pytest.raises(
        DataError, match="must name at least one candidate for request 'r9', got null"
    ):
        shop(LOG + "r9,ada,3,0,,0,,1,9\n")


def test_a_missing_column_is_reported_with_the_columns_of_the_file(shop):
    with pytest.raises(
        DataError, match=r"column label: is missing; the log has request_id, user_id"
    ):
        shop(LOG.replace("label", "clicked", 1))


def test_a_feature_without_a_column_anywhere_is_reported(shop):
    with pytest.raises(
        DataError, match=r"column genres: is missing; .* nor in a table \(--items\)"
    ):
        shop(LOG.replace("genres", "genre", 1))
    with pytest.raises(DataError, match=r"column price: is missing; .* it is not in the log$"):
        shop(LOG.replace("price", "cost", 1))


def test_a_required_feature_may_not_be_null(shop):
    schema = SCHEMA.replace("of: candidate,", "of: candidate, required: true,")
    with pytest.raises(DataError, match="row 2, column price: is required by the schema, got null"):
        shop(LOG.replace(",7,", ",,"), schema)


BOB = LOG + "r3,bob,3,0,tea,1,,3,9\n"  # a second user, in row 5


REQUIRED_AGE = SCHEMA + "  - {name: age, of: user, kind: number, required: true}\n"


@pytest.mark.parametrize(
    ("log", "users", "message"),
    [
        (
            BOB,
            "user_id,age\nada,36\nbob,\n",
            "users.csv, row 2, column age: is required by the sch",
        ),
        (
            BOB,
            "user_id,age\nada,36\n",
            "log.csv, row 5, column age: is required by the schema, but ",
        ),
        (
            BOB.replace("hour\n", "hour,age\n").replace("ink,0,office,7,9", "ink,0,office,7,9,36"),
            "user_id\nada\n",
            "log.csv, row 5, column age: is required by the schema, but user 'bob' has none",
        ),
    ],
)
def test_a_user_without_a_required_feature_is_reported(shop, log, users, message):
    with pytest.raises(DataError, match=re.escape(message)):
        shop(log, REQUIRED_AGE, users=users)


def test_a_user_feature_must_be_the_same_in_every_row_of_the_log_or_null(shop):
    schema = SCHEMA + "  - {name: age, of: user, kind: number}\n"
    schema += "  - {name: tastes, of: user, kind: categories, width: 2}\n"

    def log(ages, tastes):
        frame = pl.read_csv(io.StringIO(LOG))
        return frame.with_columns(age=pl.Series(ages), tastes=pl.Series(tastes))

    same = log([None, 36, None, 36], [None, ["a", "b"], ["a", "b"], ["a", "b"]])
    users = pl.read_parquet(shop(same, schema) / "users.parquet")
    assert users.rows() == [("ada", 36.0, ["a", "b"])]
    rule = "must be the same in all rows of a user, or be of: context; user 'ada' began with"
    with pytest.raises(DataError, match=f"row 4, column age: {rule} 36.0, got 37.0"):
        shop(log([None, 36, None, 37], [["a"]] * 4), schema)
    with pytest.raises(DataError, match=f"row 3, column tastes: {rule} "):
        shop(log([36] * 4, [["a"], ["a"], ["b"], ["b"]]), schema)
    # A column in the table of users replaces that of the log.
    prepared = shop(log([1, 2, 3, 4], [["a"]] * 4), schema, users="user_id,age\nada,36\n")
    assert pl.read_parquet(prepared / "users.parquet").rows() == [("ada", 36.0, ["a"])]


def test_whole_numbers_are_read_alike_from_floats_integers_and_text(shop):
    log = pl.read_csv(io.StringIO(LOG)).with_columns(
        request_id=pl.Series([1, 1, 2, 2]),
        user_id=pl.Series([7, 7, 7, 7]),
        item_id=pl.Series([10, 20, 30, 40]),
        genres=pl.Series([[1], [2, 3], [], [4]]),
    )
    floats = log.with_columns(
        pl.col("request_id", "user_id", "item_id", "hour").cast(pl.Float64),
        pl.col("genres").cast(pl.List(pl.Float64)),
    )
    categories = log.with_columns(
        pl.col("request_id", "user_id", "item_id", "hour").cast(pl.String).cast(pl.Categorical)
    )
    frames = [pl.read_parquet(shop(x) / "impressions.parquet") for x in (log, floats, categories)]
    assert frames[0]["item_id"].to_list() == ["10", "20", "30", "40"]
    assert frames[0]["genres"].to_list() == [["1"], ["2", "3"], [], ["4"]]
    assert all(frame.equals(frames[0]) for frame in frames)
    nothing = floats.with_columns(
        hour=math.nan, genres=pl.Series([[math.nan, 1.0], [], [], []])
    )  # many tools write null as NaN
    rows = pl.read_parquet(shop(nothing) / "impressions.parquet")
    assert rows["hour"].null_count() == 4
    assert rows["genres"].to_list() == [["1"], [], [], []]


def test_an_item_twice_in_the_item_table_is_reported(shop):
    with pytest.raises(
        DataError, match=r"items\.csv, row 3, column item_id: must occur once per file, got 'a'"
    ):
        shop(items="item_id,genres\na,x\nb,y\na,z\n")


@pytest.mark.parametrize(
    "times",
    [
        ["2023-11-14 22:13:20", "2023-11-14T22:13:20.000Z"],
        ["2023-11-14T23:13:20+01:00", "2023-11-14 21:13:20-01"],
        ["1700000000000", " 2023-11-14T22:13:20 "],
    ],
)
def test_a_time_is_milliseconds_or_iso_text_that_is_utc_without_an_offset(shop, times):
    log = pl.read_csv(LOG.encode(), infer_schema=False)
    log = log.with_columns(timestamp=pl.Series([*times, *times]))
    rows = pl.read_parquet(shop(log.write_csv()) / "impressions.parquet")
    assert rows["timestamp"].unique().to_list() == [1_700_000_000_000]
