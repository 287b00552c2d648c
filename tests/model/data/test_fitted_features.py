"""Values of a schema that are fitted on the train split."""

import polars as pl
import pytest

from model.data.fitting import fit
from service.engine.features.schema import Schema


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
    assert (fitted[0].mean, fitted[0].std) == (2.0, 1.0)  # of 1 and 3; the test list's 99 unseen
    assert fitted[1].vocabulary == ("x", "y")


@pytest.mark.parametrize(
    ("least", "items", "users", "genres"),
    [
        (1, ("a", "b", "c"), ("u", "v"), ("x", "y")),
        (2, ("a", "b"), ("u",), ("x",)),
        (3, ("a",), (), ()),
    ],
)
def test_ids_are_counted_where_train_shows_them_and_other_features_among_the_items(
    least, items, users, genres
):
    features = [("item_id", "item", "identifier"), ("user_id", "user", "identifier"),
                ("genre", "item", "category")]  # fmt: skip
    schema = {"name": "tiny", "features": [
        {"name": name, "of": of, "kind": kind, "min_count": least} for name, of, kind in features
    ]}  # fmt: skip
    lists = [("u", "train", "ab"), ("u", "train", "ab"), ("v", "train", "ac"), ("v", "test", "bcd")]
    rows = [
        {"request_id": f"r{number}", "user_id": user, "split": split, "item_id": item, "label": 0.0}
        for number, (user, split, shown) in enumerate(lists)
        for item in shown
    ]
    table = pl.DataFrame({"item_id": list("abcd"), "genre": list("xxyx")})
    known = pl.DataFrame({"user_id": ["u", "v"]})
    fitted = fit(Schema.from_dict(schema), pl.DataFrame(rows), table, known).schema.features
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
    assert (feature.mean, feature.std) == (pytest.approx(0.1), 1.0)
