"""Fitting a feature schema."""

from __future__ import annotations

import re

import polars as pl
import pytest

from model.data.fitting import fit
from service.engine.features.encoding import FeatureError
from service.engine.features.schema import Schema
from tests.support.logs import SCHEMA, digest_tree


@pytest.mark.parametrize(
    ("schema", "items", "message"),
    [
        (
            SCHEMA + "  - {name: weight, of: item, kind: number}\n",
            "item_id,weight\ntea,1\nink,1\npen,2e9\n",
            "items.parquet['pen'].weight: within 1e+06 deviations of the train mean, got 20000000",
        ),
        (
            SCHEMA.replace("of: context,", "of: context, default: [9],"),
            "item_id\ntea\n",
            "hour: a string or an integer, got [9]",
        ),
    ],
)
def test_a_schema_that_cannot_be_fitted_is_refused_and_keeps_the_old_data_set(
    shop, schema, items, message
):
    out = shop()
    before = digest_tree(out)
    with pytest.raises(FeatureError, match=re.escape(message)):
        shop(schema=schema, items=items)
    assert digest_tree(out) == before


def test_features_are_fitted_on_the_train_split_only():
    schema = Schema.from_dict(
        {
            "name": "tiny",
            "features": [
                {"name": "length", "of": "item", "kind": "number"},
                {"name": "genre", "of": "item", "kind": "category"},
            ],
        }
    )
    rows = pl.DataFrame(
        {
            "request_id": ["r1", "r1", "r2", "r2"],
            "user_id": ["u"] * 4,
            "item_id": ["a", "b", "a", "c"],
            "label": [1.0, 0.0, 0.0, 1.0],
            "split": ["train", "train", "test", "test"],
        }
    )
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "length": [1.0, 3.0, 99.0], "genre": ["x", "y", "z"]}
    )
    fitted = fit(schema, rows, items, pl.DataFrame({"user_id": ["u"]})).schema.features
    assert (fitted[0].mean, fitted[0].std) == (2.0, 1.0)  # of 1 and 3; 99 is in the test list only
    assert fitted[1].vocabulary == ("x", "y")


@pytest.mark.parametrize(
    ("min_count", "items", "users", "genres"),
    [
        (1, ("a", "b", "c"), ("u", "v"), ("x", "y")),
        (2, ("a", "b"), ("u",), ("x",)),
        (3, ("a",), (), ()),
    ],
)
def test_ids_are_counted_in_train_rows_and_lists_and_other_features_in_the_tables(
    min_count, items, users, genres
):
    columns = [
        ("item_id", "item", "identifier"),
        ("user_id", "user", "identifier"),
        ("genre", "item", "category"),
    ]
    features = [
        {"name": name, "of": of, "kind": kind, "min_count": min_count} for name, of, kind in columns
    ]
    schema = {"name": "tiny", "features": features}
    lists = [("u", "train", "ab"), ("u", "train", "ab"), ("v", "train", "ac"), ("v", "test", "bcd")]
    rows = [
        {"request_id": f"r{number}", "user_id": user, "split": split, "item_id": item, "label": 0.0}
        for number, (user, split, candidates) in enumerate(lists)
        for item in candidates
    ]
    item_table = pl.DataFrame({"item_id": list("abcd"), "genre": list("xxyx")})
    user_table = pl.DataFrame({"user_id": ["u", "v"]})
    fitted = fit(
        Schema.from_dict(schema), pl.DataFrame(rows), item_table, user_table
    ).schema.features
    assert tuple(feature.vocabulary for feature in fitted) == (items, users, genres)


def test_a_constant_column_keeps_a_deviation_of_one():
    schema = Schema.from_dict(
        {"name": "tiny", "features": [{"name": "price", "of": "item", "kind": "number"}]}
    )
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "price": [0.1, 0.1, 0.1]})
    rows = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"],
                         "request_id": ["r"] * 3, "label": [1.0, 0.0, 0.0],
                         "split": ["train"] * 3})  # fmt: skip
    (feature,) = fit(schema, rows, items, pl.DataFrame({"user_id": ["u"]})).schema.features
    assert feature.mean == pytest.approx(0.1)
    assert feature.std == 1.0
