"""The featuriser: defaults, overrides and list-relative columns, against values by hand."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import FeatureError, encode_number
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.id_index import pack_ids
from service.engine.features.ids import read_id
from service.engine.features.schema import Schema
from tests.support.features import AGE, PRICE, RATE, RELATIVE, SCHEMA, SCORE, featuriser


def test_a_list_of_ids_reads_the_item_table():
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
    candidates = CandidateList(
        ids=["a", "b"],
        scores=[0.5, None],
        features=[{"price": math.e - 1, "brand": "acme", "genres": ["y"]}, {}],
        user={"age": 60},
        context={"hour": 9},
    )
    numbers, tokens = featuriser().transform(candidates)
    assert numbers[0, PRICE] == pytest.approx((1.0 - 1.0) / 2.0)  # log1p(e - 1) = 1
    assert numbers[:, SCORE].tolist() == [0.5, -1.0]
    assert numbers[:, AGE].tolist() == [2.0, 2.0]
    assert tokens.tolist() == [[2, 6, 0, 8], [3, 6, 0, 8]]


def test_a_value_outside_the_vocabulary_gets_the_features_first_token():
    candidates = CandidateList(
        ids=["a"], features=[{"brand": "new", "genres": ["?", "x"]}], context={"hour": "8"}
    )
    assert featuriser().transform(candidates)[1][0].tolist() == [1, 4, 5, 7]


def test_categories_beyond_the_width_are_dropped():
    candidates = CandidateList(ids=["a"], features=[{"genres": ["x", "y", "x"]}])
    assert featuriser().transform(candidates)[1][0, 1:3].tolist() == [5, 6]


def test_relative_features_are_z_score_rank_and_distance_from_the_best():
    numbers, _ = featuriser().transform(CandidateList(ids=["a", "b", "c"]))
    # 1, -1, 0: mean 0, deviation sqrt(2/3).
    assert numbers[:, RELATIVE] == pytest.approx([1.224744, -1.224744, 0.0], abs=1e-4)
    assert numbers[:, RELATIVE + 1] == pytest.approx([2 / 3, -2 / 3, 0.0])
    assert numbers[:, RELATIVE + 2].tolist() == [0.0, -2.0, -1.0]
    alone, _ = featuriser().transform(CandidateList(ids=["a"]))
    assert alone[0, RELATIVE : RELATIVE + 3].tolist() == [0.0, 0.0, 0.0]


def test_relative_features_of_equal_candidates_are_zero():
    alike, _ = featuriser().transform(CandidateList(ids=[f"new-{i}" for i in range(49)]))
    assert (alike[:, RELATIVE : RELATIVE + 3] == 0.0).all()
    rated = [{"like_rate": 0.1}] * 49  # 0.1 is no float32: its mean over 49 is not itself
    inline = CandidateList(ids=[f"new-{i}" for i in range(49)], features=rated)
    assert np.abs(featuriser().transform(inline)[0][:, RELATIVE : RELATIVE + 3]).max() < 1e-5


def test_a_saved_featuriser_keeps_every_character_of_its_ids(tmp_path):
    ids = ("a", "a\0", "b\nc")
    table = dataclasses.replace(featuriser().items, ids=ids)
    Featuriser(featuriser().schema, table).save(tmp_path)
    assert tuple(Featuriser.load(tmp_path).items.ids) == ids


def test_one_long_id_does_not_widen_the_others_in_a_file():
    packed = pack_ids([*map(str, range(1000)), "x" * 10_000])
    assert sum(array.nbytes for array in packed.values()) < 30_000


def test_rows_do_not_depend_on_the_position_of_their_candidate():
    candidates = CandidateList(ids=["a", "b", "c"], history=[("a", 1.0), ("c", 0.0)])
    turned = dataclasses.replace(candidates, ids=["c", "a", "b"])
    straight, shuffled = featuriser().transform(candidates), featuriser().transform(turned)
    for one, other in zip(straight, shuffled, strict=True):
        np.testing.assert_allclose(one[[2, 0, 1]], other, atol=1e-6)


def test_a_saved_featuriser_loads_to_the_same_arrays(tmp_path):
    candidates = CandidateList(ids=["a", "x", "c"], history=[("a", 1.0)], user={"age": 3})
    featuriser().save(tmp_path)
    numbers, tokens = featuriser().transform(candidates)
    loaded_numbers, loaded_tokens = Featuriser.load(tmp_path).transform(candidates)
    assert np.array_equal(numbers, loaded_numbers)
    assert np.array_equal(tokens, loaded_tokens)


@pytest.mark.parametrize(
    ("candidates", "path", "rule"),
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
        (CandidateList(ids=["a"], scores=[1e300]), "candidates[0].score", "deviations"),
        (
            CandidateList(ids=["a"], features=[{"score": 1e300}]),
            "candidates[0].features.score",
            "deviations",
        ),
        (CandidateList(ids=["a"], user={"age": 1e300}), "user.features.age", "deviations"),
        (CandidateList(ids=["a"], user={"name": "u"}), "user.features.name", "schema"),
        (CandidateList(ids=["a"], context={"hour": 1.5}), "context.hour", "string"),
    ],
)
def test_an_invalid_inline_feature_is_refused_naming_path_and_rule(candidates, path, rule):
    with pytest.raises(FeatureError) as raised:
        featuriser().transform(candidates)
    assert raised.value.path == path
    assert rule in raised.value.rule


def test_a_list_written_as_json_reads_back_as_itself():
    candidates = CandidateList(
        ids=["a", "b"],
        scores=[0.5, 0.0],
        features=[{"price": 3.0}, {"genres": ["x"]}],
        user_id="u",
        user={"age": 60},
        history=[("c", 0.0)],
        context={"hour": "9"},
    )
    assert CandidateList.from_json(candidates.to_json()) == candidates


def test_a_list_without_a_required_feature_is_refused():
    schema = {"name": "s", "features": [{**SCHEMA["features"][5], "required": True}]}
    table = ItemTable((), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64), {})
    strict = Featuriser(Schema.from_dict(schema), table)
    assert strict.transform(CandidateList(ids=["a"], scores=[0.5]))[0][0, 0] == 0.5
    with pytest.raises(FeatureError, match=r"candidates\[0\]\.score: required"):
        strict.transform(CandidateList(ids=["a"], scores=[None]))


def test_a_default_stands_for_a_required_feature_of_a_partial_user_alone():
    features = [
        {"name": name, "of": of, "kind": "number", "required": True, "default": 7.0, "std": 2.0}
        for name, of in (("age", "user"), ("hour", "context"))
    ]
    table = ItemTable((), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64), {})
    strict = Featuriser(Schema.from_dict({"name": "s", "features": features}), table)
    context = {"hour": 4.0}
    whole = CandidateList(ids=["a"], user={"age": 1.0}, context=context, user_is_partial=True)
    partial = CandidateList(ids=["a"], context=context, user_is_partial=True)
    assert strict.transform(whole)[0].tolist() == [[0.5, 2.0]]
    assert strict.transform(partial)[0].tolist() == [[3.5, 2.0]]
    for broken, field in (
        (CandidateList(ids=["a"], context=context), r"user\.features\.age"),
        (CandidateList(ids=["a"], user_is_partial=True), r"context\.hour"),
    ):
        with pytest.raises(FeatureError, match=f"^{field}: required"):
            strict.transform(broken)


def test_a_logarithm_of_a_negative_number_is_that_of_zero():
    price = Schema.from_dict(SCHEMA).features[1]
    assert encode_number(price, -5.0, "price") == encode_number(price, 0.0, "price") == -0.5


def test_a_missing_user_id_is_refused_by_the_name_of_its_field():
    feature = {"name": "user_id", "of": "user", "kind": "identifier", "required": True}
    schema = Schema.from_dict({"name": "ids", "features": [feature | {"vocabulary": ["7"]}]})
    table = ItemTable((), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64), {})
    strict = Featuriser(schema, table)
    for user_id in ("7", read_id(7), read_id(" 7")):
        assert strict.transform(CandidateList(ids=["a"], user_id=user_id))[1].tolist() == [[2]]
    with pytest.raises(FeatureError, match=r"^user\.id: required"):
        strict.transform(CandidateList(ids=["a"]))


def test_an_error_of_a_feature_keeps_its_parts_between_processes():
    error = pickle.loads(pickle.dumps(FeatureError("user.features.age", "a finite number", "x")))
    assert str(error) == "user.features.age: a finite number, got 'x'"
    assert (error.path, error.rule, error.value) == ("user.features.age", "a finite number", "x")
