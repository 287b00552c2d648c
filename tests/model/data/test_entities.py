"""Features of items and users as of the end of training, and at the times of lists."""

from __future__ import annotations

import polars as pl
import pytest

from model.data.dataset import Dataset
from model.data.errors import DataError

DAY = 86_400_000
SCHEMA = """
name: shop
history: {limit: 3, kernels: [], rate: null}
features:
  - {name: promo, of: item, kind: category}
  - {name: price, of: item, kind: number}
  - {name: plan, of: user, kind: category}
"""
# Lists of two items on ten days: train on days 0 to 7, valid on day 8, test on days 9 and 10.
PROMO = ["old", "old", "sale", "full", "full", None, "full", "last", "v8", "t9", "t10"]


def log(**columns):
    """Return a list of `tea` and `ink` per day of PROMO; only tea's promo changes."""
    rows = [
        {
            "request_id": f"r{day:02d}",
            "user_id": "ada",
            "timestamp": day * DAY,
            "position": position,
            "item_id": item,
            "label": position,
            "promo": promo if item == "tea" else "ink promo",
            "price": float(day) if item == "tea" else None,
            "plan": "basic",
        }
        for day, promo in enumerate(PROMO)
        for position, item in enumerate(["tea", "ink"] if day < 9 else ["tea", "new"])
    ]
    return pl.DataFrame(rows).with_columns(**columns)


def promos(impressions):
    return {i.request_id: i.request.features[0].get("promo") for i in impressions}


def test_the_table_has_the_latest_value_before_the_end_of_training_and_no_later_item(shop):
    items = pl.read_parquet(shop(log(), SCHEMA) / "items.parquet")
    assert items.rows() == [("ink", "ink promo", None), ("tea", "last", 7.0)]


def test_train_rows_have_the_value_of_their_time_and_held_out_rows_only_if_fresh(shop):
    dataset = Dataset(shop(log(), SCHEMA))
    train = promos(dataset.impressions(["train"]))
    # Day 5 has no value in the log and takes that of day 4.
    assert list(train.values()) == ["old", "old", "sale", "full", "full", "full", "full", "last"]
    held_out = ["valid", "test"]
    assert all(not i.request.features for i in dataset.impressions(held_out))
    assert promos(dataset.impressions(held_out, fresh=True)) == {
        "r08": "v8", "r09": "t9", "r10": "t10"
    }  # fmt: skip
    assert dataset.fresh_features(held_out) == ["promo", "price"]


def test_a_list_sent_with_ids_gets_the_row_of_the_table_and_a_fresh_one_its_values(shop):
    dataset = Dataset(shop(log(), SCHEMA))
    column = dataset.featuriser.column("price")
    feature = dataset.featuriser.schema.features[1]
    for fresh, price in ((False, 7.0), (True, 9.0)):
        value = dataset.lists(["test"], fresh=fresh).numbers[0, 0, column]
        assert value * feature.std + feature.mean == pytest.approx(price)


def test_a_text_that_only_earlier_train_rows_had_is_in_the_vocabulary(shop):
    promo, price, _ = Dataset(shop(log(), SCHEMA)).featuriser.schema.features
    assert promo.vocabulary == ("full", "ink promo", "last", "old", "sale")
    assert price.mean == pytest.approx(3.5)  # of days 0 to 7


def test_a_train_row_before_the_first_value_takes_the_first_and_not_the_last(shop):
    late = pl.when(pl.col("timestamp") >= 3 * DAY).then("promo")
    train = promos(Dataset(shop(log(promo=late), SCHEMA)).impressions(["train"]))
    assert [train[f"r{day:02d}"] for day in range(5)] == ["full"] * 5


def test_histories_of_a_split_by_time_hold_earlier_answers_only(shop):
    dataset = Dataset(shop(log(), SCHEMA))
    histories = {i.request_id: i.request.history for i in dataset.impressions(["train", "test"])}
    assert histories["r00"] == []
    assert [item for item, _ in histories["r01"]] == ["tea", "ink"]
    assert [item for item, _ in histories["r10"]] == ["ink", "tea", "new"]


def test_answers_of_a_list_at_the_same_time_are_no_history(shop):
    same = pl.when(pl.col("request_id") == "r02").then(DAY).otherwise("timestamp")
    dataset = Dataset(shop(log(timestamp=same), SCHEMA))
    sizes = {i.request_id: len(i.request.history) for i in dataset.impressions(["train"])}
    assert [sizes[f"r{day:02d}"] for day in range(4)] == [0, 2, 2, 3]


def test_tables_with_timestamps_are_joined_as_of_each_list(shop):
    without = log().drop("promo", "plan")
    items = (
        f"item_id,timestamp,promo\ntea,0,a\ntea,{2 * DAY},b\ntea,{9 * DAY},c\nlater,{8 * DAY},d\n"
    )
    users = f"user_id,timestamp,plan\nada,{DAY},basic\nada,{6 * DAY},\nada,{8 * DAY},gold\n"
    out = shop(without, SCHEMA, items=items, users=users)
    table = pl.read_parquet(out / "items.parquet").select("item_id", "promo")
    assert table.rows() == [("ink", None), ("tea", "b")]
    assert pl.read_parquet(out / "users.parquet").rows() == [("ada", "basic")]
    dataset = Dataset(out)
    train = promos(dataset.impressions(["train"]))
    assert list(train.values()) == ["a", "a", "b", "b", "b", "b", "b", "b"]
    assert promos(dataset.impressions(["test"], fresh=True)) == {"r09": "c", "r10": "c"}
    plans = {i.request_id: i.request.user["plan"] for i in dataset.impressions(["train", "test"])}
    assert (plans["r00"], plans["r07"], plans["r09"]) == ("basic", "basic", "gold")
    assert dataset.featuriser.schema.features[0].vocabulary == ("a", "b")


@pytest.mark.parametrize("timed", [True, False])
def test_ids_that_are_features_do_not_disturb_the_values_over_time(shop, timed):
    ids = "".join(f"  - {{name: {of}_id, of: {of}, kind: identifier}}\n" for of in ("item", "user"))
    items = f"item_id,timestamp,promo\ntea,0,a\ntea,{2 * DAY},b\n"
    users = f"user_id,timestamp,plan\nada,0,basic\nada,{8 * DAY},gold\n"
    tables = {"items": items, "users": users} if timed else {}
    frame = log().drop("promo", "plan") if timed else log()
    expected = pl.read_parquet(shop(frame, SCHEMA, **tables) / "impressions.parquet")
    out = shop(frame, SCHEMA + ids, **tables)
    assert pl.read_parquet(out / "impressions.parquet").equals(expected)
    assert Dataset(out).featuriser.schema.features[3].vocabulary == ("ink", "tea")


def test_an_item_twice_at_one_time_in_a_table_is_reported(shop):
    items = "item_id,timestamp,promo\ntea,5,a\ntea,6,b\ntea,5,c\n"
    rule = "row 3, column timestamp: must occur once per item_id, got 5"
    with pytest.raises(DataError, match=rule):
        shop(log().drop("promo"), SCHEMA, items=items)


def test_items_of_a_table_without_timestamps_all_stay(shop):
    out = shop(log().drop("promo"), SCHEMA, items="item_id,promo\nhat,x\nnew,y\n")
    table = pl.read_parquet(out / "items.parquet").select("item_id", "promo")
    assert table.rows() == [("hat", "x"), ("ink", None), ("new", "y"), ("tea", None)]


def test_without_times_the_last_value_of_train_rows_counts_and_every_item_stays(shop):
    frame = log().drop("timestamp")
    items = pl.read_parquet(shop(frame, SCHEMA) / "items.parquet")
    # The last list of the user is test and the one before is valid.
    assert items.rows() == [
        ("ink", "ink promo", None),
        ("new", "ink promo", None),
        ("tea", "v8", 8.0),
    ]
