"""Feature schemas: refusals by name, and their dictionary form."""

import contextlib
import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.features.featuriser import Featuriser
from service.engine.features.schema import LabelScale, Schema
from service.engine.features.schema_rules import SchemaError
from tests.support.features import SCHEMA, featuriser

PRICE = {"name": "price", "of": "candidate", "kind": "number"}


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
        (
            {"kind": "statistic", "of": "user"},
            "features.f.of: must be item for a statistic, got 'user'",
        ),
        (
            {"kind": "vector", "of": "user", "input": False},
            "features.f.input: must be true for a vector of user, got false",
        ),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 5}, "label: must be a mapping of names to values, got 5"),
        ({"features": 3}, "features: must be a list of features, got 3"),
        ({"features": {}}, "features: must be a list of features, got {}"),
        ({"features": [5]}, "features[0]: must be a mapping of names to values, got 5"),
        ({"history": [1]}, "history: must be a mapping of names to values, got [1]"),
        ({"history": {"rate": [1]}}, "history.rate: must be a text, got [1]"),
        ({"history": {"kernels": "x"}}, "history.kernels: must be a list of texts, got 'x'"),
        ({"history": {"kernels": [[]]}}, "history.kernels: must be a list of texts, got ([],)"),
        ({"name": None}, "schema.name: must be a text, got None"),
        ({"features": [{**PRICE, "vocabulary": 3}]}, "features.price.vocabulary: must be a list"),
        ({"features": [{**PRICE, "vocabulary": [3]}]}, "list of texts, got (3,)"),
        ({"features": [{**PRICE, "mean": "3"}]}, "price.mean: must be a finite number, got '3'"),
        ({"features": [{**PRICE, "std": 0}]}, "price.std: must be a finite number above 0, got 0"),
    ],
)
def test_a_field_of_another_type_is_refused_naming_field_rule_and_value(change, message):
    with pytest.raises(SchemaError, match=re.escape(message)):
        Schema.from_dict({**SCHEMA, **change})


def with_anything_in_place_of_one_field(payload, anything):
    """Return payloads that have any JSON in place of any part of `payload`, at any depth."""
    places = [anything]
    if isinstance(payload, dict):
        for key, value in payload.items():
            inner = with_anything_in_place_of_one_field(value, anything)
            places.append(inner.map(lambda v, key=key: {**payload, key: v}))
    elif isinstance(payload, list):
        for index, value in enumerate(payload):
            inner = with_anything_in_place_of_one_field(value, anything)
            places.append(inner.map(lambda v, i=index: [*payload[:i], v, *payload[i + 1 :]]))
    return st.one_of(places)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["x", "", "3d"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
FULL = {
    "name": "s",
    "label": {"range": [0, 4], "gain": "linear", "positive": 1},
    "history": {"limit": 4, "kernels": ["genres"], "rate": "rate"},
    "events": {"buy": {"label": 1, "weight": 2, "show": False}},
    "features": [
        {"name": "rate", "of": "item", "kind": "statistic", "bucket": "1h", "half_life": "3d"},
        {"name": "genres", "of": "item", "kind": "categories", "width": 2, "vocabulary": ["x"]},
        {**PRICE, "transform": "log", "mean": 1.0, "std": 2.0, "default": 1, "relative": True},
    ],
}


@settings(max_examples=150, deadline=None)
@given(with_anything_in_place_of_one_field(FULL, ANYTHING))
def test_any_json_is_a_schema_or_a_schema_error(payload):
    with contextlib.suppress(SchemaError):
        assert Schema.from_dict(payload).to_dict()["features"] is not None


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


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"gain": "cubic"}, "label.gain: must be one of binary, linear, exponential, got 'cubic'"),
        ({"positive": 0}, "label.positive: must be a number above 0 and at most 1, got 0"),
        ({"positive": 1.5}, "label.positive: must be a number above 0 and at most 1, got 1.5"),
        ({"positive": True}, "label.positive: must be a number above 0 and at most 1, got True"),
        ({"range": [0, 32], "gain": "exponential"}, r"label.range: must span at most 31 for an"),
        ({"grades": 5}, "label.grades: unknown field; must be one of gain, positive, range"),
    ],
)
def test_an_impossible_label_scale_is_refused_naming_field_rule_and_value(label, message):
    with pytest.raises(SchemaError, match=message):
        Schema.from_dict({**SCHEMA, "label": label})


def test_gains_and_positives_follow_the_declared_scale():
    grades = np.array([0, 1, 2, 3, 4])
    declared = {"range": [1, 5], "gain": "exponential", "positive": 2}
    exponential = Schema.from_dict({**SCHEMA, "label": declared}).label
    labels = (grades / 4).astype(np.float32)
    assert exponential.gain(labels).tolist() == pytest.approx([0, 1 / 15, 3 / 15, 7 / 15, 1])
    assert exponential.is_positive(labels).tolist() == [False, True, True, True, True]
    linear = LabelScale((0, 4), "linear")
    assert linear.gain(labels).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert linear.is_positive(labels).tolist() == [False, False, False, True, True]
    binary = LabelScale((0, 4), "binary", 2)
    assert binary.gain(labels).tolist() == binary.target(labels).tolist() == [0, 0, 1, 1, 1]


def test_an_undeclared_gain_is_binary_and_leaves_a_label_as_its_own_target():
    scale = LabelScale()
    assert scale.gain([0.2, 0.5, 0.6]).tolist() == [0, 0, 1]
    assert scale.target([0.2, 0.5]).tolist() == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize("high", [3, 7, 10, 31])
def test_a_label_equal_to_positive_counts_whatever_its_rounding(high):
    for positive in range(1, high + 1):
        scale = LabelScale((0, high), "linear", positive)
        assert scale.is_positive([positive / high, np.float32(positive / high)]).all()
        assert not scale.is_positive([(positive - 1) / high]).any()


@pytest.mark.parametrize(
    "label",
    [{"range": [0.0, 1.0]}, {"range": [0.0, 4.0], "gain": "exponential", "positive": 1.0}],
)
def test_a_label_scale_written_as_a_dictionary_reads_back_as_itself(label):
    schema = Schema.from_dict({**SCHEMA, "label": label})
    assert schema.to_dict()["label"] == label
    assert Schema.from_dict(schema.to_dict()) == schema


def test_a_schema_written_as_a_dictionary_reads_back_as_itself():
    schema = Schema.from_dict(SCHEMA)
    assert Schema.from_dict(schema.to_dict()) == schema


def test_a_bundles_features_keep_the_label_scale_and_those_without_one_are_binary(tmp_path):
    before = featuriser()
    declared = LabelScale((0, 4), "exponential", 1)
    schema = dataclasses.replace(before.schema, label=declared)
    Featuriser(schema, before.items).save(tmp_path)
    assert Featuriser.load(tmp_path).schema.label == declared
    payload = json.loads((tmp_path / "features.json").read_text(encoding="utf-8"))
    del payload["label"]
    (tmp_path / "features.json").write_text(json.dumps(payload), encoding="utf-8")
    assert Featuriser.load(tmp_path).schema.label == LabelScale()
