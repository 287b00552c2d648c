"""Reading feature schemas."""

from __future__ import annotations

import io
import re

import numpy as np
import polars as pl
import pytest

from model.data.dataset import Dataset
from model.data.errors import DataError
from tests.support.logs import LOG, SCHEMA


@pytest.mark.parametrize(
    "name",
    ["order", "fold", "number", "index", "value", "first", "row", "rows", "lists", "run", "score"],
)
def test_a_feature_may_have_any_name_that_does_not_begin_with_two_underscores(shop, name):
    log = pl.read_csv(io.StringIO(LOG)).drop("price")
    log = log.with_columns(pl.Series(name, [9.0, 7.0, 5.0, 3.0]))
    turned = log.with_columns(label=pl.Series([1, 0, 0, 1]))  # r2 is the test list
    for of in ("candidate", "item"):
        schema = SCHEMA.replace("name: price, of: candidate", f"name: {name}, of: {of}")
        rates = []
        for frame in (log, turned):
            out = shop(frame, schema, items=f"item_id,{name}\ntea,0\nink,1\npen,0\nmug,1\n")
            rows = pl.read_parquet(out / "impressions.parquet")
            assert rows["item_id"].to_list() == ["tea", "ink", "pen", "mug"]
            assert rows[name].to_list() == [9.0, 7.0, 5.0, 3.0]
            items = pl.read_parquet(out / "items.parquet")["like_rate"].to_list()
            rates.append((items, rows["like_rate"].to_list()))
        assert rates[0] == rates[1]
        lists = Dataset(out).lists(["train", "test"], fresh=True)
        column = Dataset(out).featuriser.column(name)
        assert lists.labels.tolist() == [[1.0, 0.0], [0.0, 1.0]]
        assert (np.diff(lists.numbers[:, :, column]) < 0).all()


RESERVED = "must not be a column of the log or begin with __"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 3", "wide: 3", "features[1].wide: unknown field; must be one of"),
        ("kind: categories", "kind: colour", "features.genres.kind: must be one of identifier"),
        (
            "prior_strength: 10",
            "prior_strength: 0",
            "like_rate.prior_strength: must be a finite number above 0, got 0",
        ),
        (
            "name: price",
            "name: position",
            f"features.position.name: {RESERVED}, got 'position'",
        ),
        (
            "name: price",
            "name: __fold",
            f"features.__fold.name: {RESERVED}, got '__fold'",
        ),
        ("name: shop", "- shop", "schema.yaml: cannot be read"),
    ],
)
def test_a_bad_schema_is_reported(shop, old, new, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        shop(schema=SCHEMA.replace(old, new))
    assert "schema.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
