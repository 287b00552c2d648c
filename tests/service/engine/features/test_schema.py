"""Feature schemas: refusals by name, and their dictionary form."""

import math

import pytest

from service.engine.features.schema import Schema, SchemaError
from tests.support.features import SCHEMA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "text"}, "features.f.kind: must be one of"),
        ({"input": False}, "features.f.input: must be true for a number, got false"),
        ({"of": "shop"}, "features.f.of: must be one of"),
        ({"transform": "sqrt"}, "features.f.transform: must be one of"),
        ({"colour": 1}, r"features\[0\].colour: unknown field; must be one of"),
        (
            {"kind": "category", "relative": True},
            "features.f.relative: must be false for a category, got true",
        ),
        ({"kind": "vector", "of": "user"}, "features.f.of: must be item for a vector, got 'user'"),
        ({"name": 7}, "features.7.name: must be a text, got 7"),
        ({"width": 0}, "features.f.width: must be a whole number above 0, got 0"),
        ({"width": 1.5}, "features.f.width: must be a whole number above 0, got 1.5"),
        ({"min_count": 0}, "features.f.min_count: must be a whole number above 0, got 0"),
        ({"min_count": "3"}, "features.f.min_count: must be a whole number above 0, got '3'"),
        (
            {"prior_strength": "1e-3"},
            "features.f.prior_strength: must be a finite number above 0, got '1e",
        ),
        (
            {"prior_strength": math.inf},
            "features.f.prior_strength: must be a finite number above 0, got inf",
        ),
        ({"default": "cheap"}, "features.f.default: must be a finite number, got 'cheap'"),
        ({"default": math.nan}, "features.f.default: must be a finite number, got nan"),
        ({"required": "no"}, "features.f.required: must be true or false, got 'no'"),
        ({"required": True}, "features.f.required: must be false for a feature of item, got true"),
    ],
)
def test_an_impossible_feature_is_refused_naming_it_and_the_rule(change, message):
    feature = {"name": "f", "of": "item", "kind": "number", **change}
    with pytest.raises(SchemaError, match=message):
        Schema.from_dict({"name": "s", "features": [feature]})


def test_history_kernels_and_rate_must_name_features_of_their_kind():
    for history in ({"kernels": ["price"]}, {"kernels": ["none"]}, {"rate": "price"}):
        with pytest.raises(SchemaError, match=r"history\.(kernels|rate)"):
            Schema.from_dict({**SCHEMA, "history": history})


@pytest.mark.parametrize("limit", [0, -1, 2.0, "9", True])
def test_a_history_limit_that_is_no_whole_number_above_0_is_refused(limit):
    with pytest.raises(SchemaError, match=r"history\.limit: must be a whole number above 0, got "):
        Schema.from_dict({**SCHEMA, "history": {"limit": limit}})


@pytest.mark.parametrize("ends", [[0], 5, [1, 1], [5, 0], [0, math.inf], ["0", "1"], [False, True]])
def test_a_label_range_that_is_not_two_ascending_numbers_is_refused(ends):
    with pytest.raises(
        SchemaError, match=r"label\.range: must be two finite numbers, low < high, got "
    ):
        Schema.from_dict({**SCHEMA, "label": {"range": ends}})


def test_a_schema_written_as_a_dictionary_reads_back_as_itself():
    schema = Schema.from_dict(SCHEMA)
    assert Schema.from_dict(schema.to_dict()) == schema
