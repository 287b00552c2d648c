"""Feature schemas: refusals by name, and their dictionary form."""

import dataclasses
import json
import math

import numpy as np
import pytest

from service.engine.features.featuriser import Featuriser
from service.engine.features.schema import LabelScale, Schema, SchemaError
from tests.support.features import SCHEMA, featuriser


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
