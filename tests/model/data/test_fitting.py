"""Fitting a schema."""

from __future__ import annotations

import re

import pytest

from service.engine.features.encoding import FeatureError
from tests.support.logs import SCHEMA, digest_tree


@pytest.mark.parametrize(
    ("schema", "items", "message"),
    [
        (
            SCHEMA + "  - {name: weight, of: item, kind: number}\n",
            "item_id,weight\ntea,1\nink,2\nmug,1e300\n",
            "items.parquet['mug'].weight: within 1e+06 deviations of the train mean, got 1e+300",
        ),
        (
            SCHEMA.replace("of: context,", "of: context, default: [9],"),
            "item_id\ntea\n",
            "hour: a string or an integer, got [9]",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_training(shop, schema, items, message):
    out = shop()
    before = digest_tree(out)
    with pytest.raises(FeatureError, match=re.escape(message)):
        shop(schema=schema, items=items)
    assert digest_tree(out) == before
