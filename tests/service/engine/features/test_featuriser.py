"""The featuriser: defaults, overrides, lists as a whole, histories - against values by hand."""

import dataclasses
import math

import numpy as np
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import FeatureError, encode_number
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Schema, SchemaError

SCHEMA = {
    "name": "tiny",
    "history": {"limit": 4, "kernels": ["genres", "style"], "rate": "like_rate"},
    "features": [
        {"name": "like_rate", "of": "item", "kind": "statistic", "relative": True},
        {
            "name": "price",
            "of": "item",
            "kind": "number",
            "transform": "log",
            "mean": 1.0,
            "std": 2.0,
        },
        {"name": "brand", "of": "item", "kind": "identifier", "vocabulary": ["acme", "zeta"]},
        {
            "name": "genres",
            "of": "item",
            "kind": "categories",
            "width": 2,
            "vocabulary": ["x", "y"],
        },
        {"name": "style", "of": "item", "kind": "vector", "width": 2, "input": False},
        {"name": "score", "of": "candidate", "kind": "number", "default": -1.0},
        {"name": "hour", "of": "context", "kind": "category", "vocabulary": ["9"], "default": "9"},
        {"name": "age", "of": "user", "kind": "number", "mean": 40.0, "std": 10.0},
    ],
}
# Columns: like_rate with its z-score, rank and distance from the best; price, score, age; two
# kernels of three; what they say together (ridge, its z-score, nearness, echo, its z-score, nearest
# liked and passed over); repeats liked and passed over; size.
RATE, RELATIVE, PRICE, SCORE, AGE, GENRES, STYLE = 0, 1, 4, 5, 6, 7, 10
RIDGE, NEAR, ECHO, NEAREST_LIKED, NEAREST_PASSED = 13, 15, 16, 18, 19
LIKED, PASSED, SIZE = 20, 21, 22
# Token slots: brand, genres x 2, hour. Tokens: 1 brand?, 2 acme, 3 zeta, 4 genre?, 5 x, 6 y, 7, 8.
BRAND, HOUR = 0, 3


def featuriser(**history):
    schema = {**SCHEMA, "history": {**SCHEMA["history"], **history}}
    items = ItemTable(
        ids=("a", "b", "c"),
        numbers=np.array([[1.0, 0.5], [-1.0, 0.0], [0.0, 2.0]], np.float32),
        tokens=np.array([[2, 5, 0], [3, 6, 0], [0, 5, 6]], np.int64),
        vectors={"style": np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], np.float32)},
    )
    return Featuriser(Schema.from_dict(schema), items)


def test_a_request_of_ids_reads_the_item_table():
    numbers, tokens = featuriser().transform(CandidateList(ids=["b", "a"]))
    assert numbers.dtype == np.float32
    assert tokens.dtype == np.int64
    assert numbers[:, RATE].tolist() == [-1.0, 1.0]
    assert numbers[:, PRICE].tolist() == [0.0, 0.5]
    assert tokens.tolist() == [[3, 6, 0, 8], [2, 5, 0, 8]]


def test_unknown_ids_and_missing_features_take_the_declared_defaults():
    numbers, tokens = featuriser().transform(CandidateList(ids=["nobody"]))
    assert numbers[0, [RATE, PRICE, SCORE, AGE]].tolist() == [0.0, 0.0, -1.0, 0.0]
    assert tokens[0].tolist() == [0, 0, 0, 8]  # hour's default is "9"


def test_inline_features_override_the_table():
    request = CandidateList(
        ids=["a", "b"],
        scores=[0.5, None],
        features=[{"price": math.e - 1, "brand": "acme", "genres": ["y"]}, {}],
        user={"age": 60},
        context={"hour": 9},
    )
    numbers, tokens = featuriser().transform(request)
    assert numbers[0, PRICE] == pytest.approx((1.0 - 1.0) / 2.0)  # log1p(e - 1) = 1
    assert numbers[:, SCORE].tolist() == [0.5, -1.0]
    assert numbers[:, AGE].tolist() == [2.0, 2.0]
    assert tokens.tolist() == [[2, 6, 0, 8], [3, 6, 0, 8]]


def test_a_value_outside_the_vocabulary_is_the_features_first_token():
    request = CandidateList(
        ids=["a"], features=[{"brand": "new", "genres": ["?", "x"]}], context={"hour": "8"}
    )
    assert featuriser().transform(request)[1][0].tolist() == [1, 4, 5, 7]


def test_more_categories_than_the_width_are_cut():
    request = CandidateList(ids=["a"], features=[{"genres": ["x", "y", "x"]}])
    assert featuriser().transform(request)[1][0, 1:3].tolist() == [5, 6]


def test_relative_features_tell_where_in_the_list_a_candidate_stands():
    numbers, _ = featuriser().transform(CandidateList(ids=["a", "b", "c"]))
    # 1, -1, 0: mean 0, deviation sqrt(2/3).
    assert numbers[:, RELATIVE] == pytest.approx([1.224744, -1.224744, 0.0], abs=1e-4)
    assert numbers[:, RELATIVE + 1] == pytest.approx([2 / 3, -2 / 3, 0.0])
    assert numbers[:, RELATIVE + 2].tolist() == [0.0, -2.0, -1.0]
    alone, _ = featuriser().transform(CandidateList(ids=["a"]))
    assert alone[0, RELATIVE : RELATIVE + 3].tolist() == [0.0, 0.0, 0.0]


def test_a_list_of_equals_has_no_standing():
    alike, _ = featuriser().transform(CandidateList(ids=[f"new-{i}" for i in range(49)]))
    assert (alike[:, RELATIVE : RELATIVE + 3] == 0.0).all()
    rated = [{"like_rate": 0.1}] * 49  # 0.1 is no float32: its mean over 49 is not itself
    inline = CandidateList(ids=[f"new-{i}" for i in range(49)], features=rated)
    assert np.abs(featuriser().transform(inline)[0][:, RELATIVE : RELATIVE + 3]).max() < 1e-5


def test_the_history_carries_surprises_over_by_kernel():
    # The user liked "a", whose expected rate is sigmoid(1) = .731059: surprise .268941.
    numbers, _ = featuriser().transform(CandidateList(ids=["a", "b", "c"], history=[("a", 1.0)]))
    surprise = 1.0 - 1.0 / (1.0 + math.exp(-1.0))
    # Genres: a = {x}, b = {y}, c = {x, y} / sqrt 2.
    similarity = np.array([1.0, 0.0, 1 / math.sqrt(2)])
    assert numbers[:, GENRES] == pytest.approx(similarity * surprise, abs=1e-6)
    expected = similarity * surprise / (similarity + 1.0)
    assert numbers[:, GENRES + 1] == pytest.approx(expected, abs=1e-6)
    assert numbers[:, GENRES + 1] != pytest.approx(expected * 1.01, abs=1e-6)
    assert numbers[:, LIKED].tolist() == [1.0, 0.0, 0.0]
    assert numbers[:, SIZE] == pytest.approx([math.log(2.0) / 4.0] * 3)


def test_the_answers_together_are_a_ridge_regression_and_the_nearest_of_them():
    numbers, _ = featuriser().transform(CandidateList(ids=["a", "b", "c"], history=[("a", 1.0)]))
    surprise = 1.0 - 1.0 / (1.0 + math.exp(-1.0))
    similarity = np.array([1.0, 0.0, 1 / math.sqrt(2)])  # the mean of two kernels that agree
    # One answer of similarity 1 to itself, ridge 8: its weight is surprise / (1 + 8).
    assert numbers[:, RIDGE] == pytest.approx(similarity * surprise / 9.0, abs=1e-6)
    assert numbers[:, NEAR] == pytest.approx(similarity, abs=1e-6)
    assert numbers[:, ECHO] == pytest.approx(similarity * surprise, abs=1e-6)
    assert numbers[:, NEAREST_LIKED] == pytest.approx(similarity, abs=1e-6)
    assert numbers[:, NEAREST_PASSED].tolist() == [0.0, 0.0, 0.0]
    assert numbers[:, RIDGE] != pytest.approx(similarity * surprise / 8.0, abs=1e-6)
    passed, _ = featuriser().transform(CandidateList(ids=["a"], history=[("a", 0.0)]))
    assert passed[0, [NEAREST_LIKED, NEAREST_PASSED]].tolist() == [0.0, 1.0]


def test_what_was_passed_over_counts_against():
    liked, _ = featuriser().transform(CandidateList(ids=["c"], history=[("a", 1.0)]))
    passed, _ = featuriser().transform(CandidateList(ids=["c"], history=[("a", 0.0)]))
    assert liked[0, GENRES] > 0 > passed[0, GENRES]
    repeated, _ = featuriser().transform(CandidateList(ids=["a"], history=[("a", 0.0)]))
    assert repeated[0, [LIKED, PASSED]].tolist() == [0.0, 1.0]


def test_only_the_most_recent_entries_and_known_items_count():
    recent = featuriser(limit=1)
    request = CandidateList(ids=["c"], history=[("b", 1.0), ("a", 0.0)])
    short = CandidateList(ids=["c"], history=[("nobody", 1.0), ("a", 0.0)])
    cut, _ = recent.transform(request)
    only, _ = featuriser().transform(short)
    assert np.array_equal(cut, only)
    assert not np.array_equal(cut, featuriser().transform(request)[0])


def test_an_inline_vector_moves_the_kernel():
    request = CandidateList(ids=["a"], features=[{"style": [0.0, 5.0]}], history=[("b", 1.0)])
    moved, _ = featuriser().transform(request)
    kept, _ = featuriser().transform(dataclasses.replace(request, features=()))
    surprise = 1.0 - 1.0 / (1.0 + math.exp(1.0))
    assert moved[0, STYLE] == pytest.approx(surprise, abs=1e-6)
    assert kept[0, STYLE] == 0.0


def test_rows_do_not_depend_on_where_their_candidate_stands():
    request = CandidateList(ids=["a", "b", "c"], history=[("a", 1.0), ("c", 0.0)])
    turned = dataclasses.replace(request, ids=["c", "a", "b"])
    straight, shuffled = featuriser().transform(request), featuriser().transform(turned)
    for one, other in zip(straight, shuffled, strict=True):
        np.testing.assert_allclose(one[[2, 0, 1]], other, atol=1e-6)


def test_what_was_saved_loads_to_the_same_arrays(tmp_path):
    request = CandidateList(ids=["a", "x", "c"], history=[("a", 1.0)], user={"age": 3})
    featuriser().save(tmp_path)
    before, after = featuriser().transform(request), Featuriser.load(tmp_path).transform(request)
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("request_", "path", "rule"),
    [
        (
            CandidateList(ids=["a"], features=[{"colour": 1}]),
            "candidates[0].features.colour",
            "schema",
        ),
        (
            CandidateList(ids=["a"], features=[{"price": "3"}]),
            "candidates[0].features.price",
            "finite",
        ),
        (
            CandidateList(ids=["a"], features=[{"price": True}]),
            "candidates[0].features.price",
            "finite",
        ),
        (
            CandidateList(ids=["a"], features=[{"brand": 1.5}]),
            "candidates[0].features.brand",
            "string",
        ),
        (
            CandidateList(ids=["a"], features=[{"genres": "x"}]),
            "candidates[0].features.genres",
            "list",
        ),
        (
            CandidateList(ids=["a"], features=[{"style": [1]}]),
            "candidates[0].features.style",
            "list of 2",
        ),
        (
            CandidateList(ids=["a"], features=[{"style": ["1", 1]}]),
            "candidates[0].features.style",
            "2",
        ),
        (
            CandidateList(ids=["a"], features=[{"style": [1e9, 1]}]),
            "candidates[0].features.style",
            "2",
        ),
        (CandidateList(ids=["a"], user={"age": 1e300}), "user.features.age", "deviations"),
        (CandidateList(ids=["a"], user={"name": "u"}), "user.features.name", "schema"),
        (CandidateList(ids=["a"], context={"hour": 1.5}), "context.hour", "string"),
    ],
)
def test_a_bad_inline_feature_is_named(request_, path, rule):
    with pytest.raises(FeatureError) as raised:
        featuriser().transform(request_)
    assert raised.value.path == path
    assert rule in raised.value.rule


def test_a_request_written_as_json_reads_back_as_itself():
    request = CandidateList(
        ids=["a", "b"],
        scores=[0.5, 0.0],
        features=[{"price": 3.0}, {"genres": ["x"]}],
        user_id="u",
        user={"age": 60},
        history=[("c", 0.0)],
        context={"hour": "9"},
    )
    assert CandidateList.from_json(request.to_json()) == request


def test_a_required_feature_must_be_there():
    schema = {"name": "s", "features": [{**SCHEMA["features"][5], "required": True}]}
    table = ItemTable((), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64), {})
    strict = Featuriser(Schema.from_dict(schema), table)
    assert strict.transform(CandidateList(ids=["a"], scores=[0.5]))[0][0, 0] == 0.5
    with pytest.raises(FeatureError, match=r"candidates\[0\]\.features\.score: required"):
        strict.transform(CandidateList(ids=["a"], scores=[None]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "text"}, "features.f.kind: one of"),
        ({"input": False}, "features.f.input: only a vector"),
        ({"of": "shop"}, "features.f.of: one of"),
        ({"transform": "sqrt"}, "features.f.transform: one of"),
        ({"colour": 1}, r"features\[0\].colour: unknown"),
        ({"kind": "category", "relative": True}, "features.f.relative: only numbers"),
        ({"kind": "vector", "of": "user"}, "features.f.of: a vector is of item"),
        ({"name": 7}, "features.7.name: a text, got 7"),
        ({"width": 0}, "features.f.width: a whole number above 0, got 0"),
        ({"width": 1.5}, "features.f.width: a whole number above 0, got 1.5"),
        ({"min_count": 0}, "features.f.min_count: a whole number above 0, got 0"),
        ({"min_count": "3"}, "features.f.min_count: a whole number above 0, got '3'"),
        ({"prior_strength": "1e-3"}, "features.f.prior_strength: a finite number above 0, got '1e"),
        (
            {"prior_strength": math.inf},
            "features.f.prior_strength: a finite number above 0, got inf",
        ),
        ({"default": "cheap"}, "features.f.default: a finite number, got 'cheap'"),
        ({"default": math.nan}, "features.f.default: a finite number, got nan"),
        ({"required": "no"}, "features.f.required: true or false, got 'no'"),
        ({"required": True}, "features.f.required: of user, context or candidate"),
    ],
)
def test_an_impossible_schema_is_refused_by_name(change, message):
    feature = {"name": "f", "of": "item", "kind": "number", **change}
    with pytest.raises(SchemaError, match=message):
        Schema.from_dict({"name": "s", "features": [feature]})


def test_kernels_and_rate_must_name_fitting_features():
    for history in ({"kernels": ["price"]}, {"kernels": ["none"]}, {"rate": "price"}):
        with pytest.raises(SchemaError, match=r"history\.(kernels|rate)"):
            Schema.from_dict({**SCHEMA, "history": history})


@pytest.mark.parametrize("limit", [0, -1, 2.0, "9", True])
def test_a_history_has_room_for_an_entry(limit):
    with pytest.raises(SchemaError, match=r"history\.limit: a whole number above 0, got "):
        Schema.from_dict({**SCHEMA, "history": {"limit": limit}})


@pytest.mark.parametrize("ends", [[0], 5, [1, 1], [5, 0], [0, math.inf], ["0", "1"], [False, True]])
def test_labels_lie_between_two_numbers(ends):
    with pytest.raises(SchemaError, match=r"label\.range: two finite numbers, low < high, got "):
        Schema.from_dict({**SCHEMA, "label": {"range": ends}})


def test_a_schema_survives_its_dictionary():
    schema = Schema.from_dict(SCHEMA)
    assert Schema.from_dict(schema.to_dict()) == schema


def test_logarithms_take_numbers_below_zero_as_zero():
    price = Schema.from_dict(SCHEMA).features[1]
    assert encode_number(price, -5.0, "price") == encode_number(price, 0.0, "price") == -0.5
