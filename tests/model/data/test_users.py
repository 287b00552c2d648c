"""Lists without a user, and logs without a list to learn from."""

from __future__ import annotations

import io

import polars as pl
import pytest

from model.data.dataset import Dataset
from model.data.errors import DataError
from tests.support.logs import LOG, SCHEMA, prepare

GOOD = pl.read_csv(io.StringIO(LOG), infer_schema=False)
MANY = pl.concat(
    GOOD.with_columns(request_id=pl.col("request_id") + f".{n}", timestamp=pl.lit(str(n)))
    for n in range(20)
)
NO_USER = pl.when(pl.col("request_id").str.starts_with("r1"))


@pytest.mark.parametrize(
    "log",
    [
        MANY.with_columns(user_id=NO_USER.then(None).otherwise("user_id")),
        MANY.with_columns(user_id=NO_USER.then(pl.lit(" \u2003")).otherwise("user_id")),
        MANY.with_columns(user_id=NO_USER.then(None).otherwise("user_id")).reverse(),
    ],
    ids=["null", "blank", "reversed"],
)
def test_a_list_without_a_user_is_a_user_of_its_own(shop, tmp_path, log):
    schema = SCHEMA + "  - {name: user_id, of: user, kind: identifier}\n"
    out = shop(log, schema)
    data = Dataset(out)
    lists = list(data.impressions(["train", "valid", "test"]))
    assert len(lists) == 40
    with_user = [one for one in lists if one.request_id.startswith("r2")]
    assert {one.request.user_id for one in with_user} == {"ada"}
    without = [one for one in lists if one.request_id.startswith("r1")]
    assert {one.request.user_id for one in without} == {None}
    assert {one.split for one in without} == {"train"}  # a user of one list
    assert not any(one.request.history for one in without)
    assert len({one.user_id for one in without}) == 20
    assert "ada" not in {one.user_id for one in without}
    assert pl.read_parquet(out / "users.parquet").rows() == [("ada",)]
    (feature,) = [f for f in data.featuriser.schema.features if f.name == "user_id"]
    assert feature.vocabulary == ("ada",)
    inputs = ["--log", tmp_path / "log.parquet", "--schema", tmp_path / "schema.yaml"]
    printed = prepare("impressions", *inputs, "--out", out)
    assert f"{out} log: 20 lists have no user_id; each is a user of its own" in printed


def test_a_log_without_the_column_has_a_user_for_each_list(shop):
    out = shop(MANY.drop("user_id").write_csv(), options=["--split", "user"])
    rows = pl.read_parquet(out / "impressions.parquet")
    assert rows["user_id"].n_unique() == rows["request_id"].n_unique() == 40
    assert rows.filter(pl.col("split") == "test")["request_id"].n_unique() == 4
    assert pl.read_parquet(out / "users.parquet").is_empty()
    named = shop(MANY.with_columns(user_id=pl.lit(None)).write_csv(), options=["--split", "user"])
    assert pl.read_parquet(named / "impressions.parquet").equals(rows)


def test_an_anonymous_user_keeps_the_features_of_the_log(shop):
    schema = SCHEMA + "  - {name: age, of: user, kind: number}\n"
    age = pl.when(pl.col("request_id") == "r1.0").then(pl.lit("36"))
    out = shop(MANY.with_columns(age=age).drop("user_id").write_csv(), schema)
    ((user, value),) = pl.read_parquet(out / "users.parquet").rows()
    assert value == 36.0
    (one,) = [i for i in Dataset(out).impressions(["train"]) if i.user_id == user]
    assert (one.request_id, one.request.user_id, one.request.user) == ("r1.0", None, {"age": 36.0})


def test_a_required_user_must_be_there(shop):
    schema = SCHEMA + "  - {name: user_id, of: user, kind: identifier, required: true}\n"
    with pytest.raises(DataError, match="column user_id: is missing; the log has"):
        shop(GOOD.drop("user_id").write_csv(), schema)
    log = GOOD.with_columns(user_id=NO_USER.then(None).otherwise("user_id"))
    with pytest.raises(DataError, match="row 1, column user_id: must be an id, neither null nor"):
        shop(log.write_csv(), schema)


def test_an_anonymous_list_without_a_required_feature_is_reported(shop):
    schema = SCHEMA + "  - {name: age, of: user, kind: number, required: true}\n"
    log = GOOD.with_columns(user_id=NO_USER.then(None).otherwise("user_id"), age=pl.lit("3"))
    assert shop(log.write_csv(), schema)
    log = log.with_columns(age=NO_USER.then(None).otherwise("age"))
    with pytest.raises(DataError, match="row 1, column age: is required by the schema, but user"):
        shop(log.write_csv(), schema)


def test_a_table_of_users_needs_users_in_the_log(shop):
    with pytest.raises(DataError, match=r"none of its 0 users; the log has none, the table 'ada'"):
        shop(GOOD.drop("user_id").write_csv(), users="user_id\nada\n")


@pytest.mark.parametrize("label", [0, 1])
def test_a_log_without_a_train_list_that_tells_an_order_is_refused(shop, label):
    log = MANY.with_columns(label=pl.lit(str(label)))
    with pytest.raises(DataError, match="none of the 38 train lists has a positive and a negative"):
        shop(log.write_csv())


def test_splits_without_a_list_that_tells_an_order_are_named(shop, tmp_path):
    last = pl.col("request_id").is_in(["r1.19", "r2.19"])
    log = MANY.with_columns(label=pl.when(last).then(pl.lit("0")).otherwise("label"))
    shop(log.write_csv())
    inputs = ["--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml"]
    lines = prepare("impressions", *inputs, "--out", tmp_path / "shop").splitlines()
    order = "a positive and a negative"
    remarks = [line.partition("shop log: ")[2] for line in lines if order in line]
    assert remarks == [
        "none of the 1 valid lists has a positive and a negative; train refuses a data set without "
        "one",
        "none of the 1 test lists has a positive and a negative; evaluate has nothing to measure",
    ]
