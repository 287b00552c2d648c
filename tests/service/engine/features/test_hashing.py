"""Values are hashed evenly, and the same in every process and version."""

import dataclasses

import numpy as np
import pytest

from service.engine.features.hashing import Buckets
from service.engine.features.layout import Layout
from service.engine.features.schema import Feature, Schema
from service.engine.features.schema_rules import SchemaError

BRAND = Feature("brand", "item", "category", buckets=5)
SIZE = Feature("size", "item", "category", vocabulary=("l", "s"))


def test_buckets_of_values_never_change():
    assert Buckets(1000).find(["1", "i0000042", "ä", "\ud800"]).tolist() == [910, 460, 529, 464]


def test_ids_that_differ_in_a_digit_fall_as_evenly_as_random_ones():
    for count in (1 << 14, 10_000):
        values = [f"i{number:07d}" for number in range(10_000)]
        sizes = np.bincount(Buckets(count).find(values), minlength=count)
        shared = (sizes * (sizes > 1)).sum() / len(values)
        expected = 1 - (1 - 1 / count) ** (len(values) - 1)
        assert abs(shared - expected) < 0.02


def test_each_value_has_a_token_and_features_do_not_overlap():
    schema = Schema("shop", (BRAND, SIZE))
    layout = Layout(schema)
    assert layout.vocabulary_size == 1 + (1 + 5) + (1 + 2)
    values = [f"b{number}" for number in range(100)]
    tokens = layout.encode_tokens(BRAND, values, "brand")[:, 0]
    assert set(tokens.tolist()) == {2, 3, 4, 5, 6}
    assert layout.encode_tokens(SIZE, ["l", "?"], "size")[:, 0].tolist() == [8, 7]
    assert layout.encode_tokens(BRAND, [None, 7, "7"], "brand")[:, 0].tolist()[0] == 0
    number, text = layout.encode_tokens(BRAND, [7, "7"], "brand")[:, 0].tolist()
    assert number == text


def test_buckets_survive_the_json_of_a_schema():
    schema = Schema("shop", (BRAND, SIZE))
    assert Schema.from_dict(schema.to_dict()) == schema
    assert "buckets" not in schema.to_dict()["features"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buckets": 0}, r"features\.brand\.buckets: must be a whole number above 0, got 0"),
        ({"buckets": "9"}, r"features\.brand\.buckets: must be a whole number above 0, got '9'"),
        ({"kind": "categories"}, r"brand\.buckets: must be absent from a categories, got 5"),
        ({"kind": "number"}, r"brand\.buckets: must be absent from a number, got 5"),
        ({"min_count": 2}, r"features\.brand\.min_count: must be 1 with buckets, got 2"),
    ],
)
def test_wrong_buckets_are_refused_by_rule_and_value(change, message):
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(BRAND, **change)
