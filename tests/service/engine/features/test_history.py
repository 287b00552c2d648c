"""History columns, against values worked out by hand."""

import dataclasses
import math

import numpy as np
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser
from service.engine.features.schema import LabelScale
from tests.support.features import (
    ECHO,
    GENRES,
    LIKED,
    NEAR,
    NEAREST_LIKED,
    NEAREST_PASSED,
    PASSED,
    RIDGE,
    SIZE,
    STYLE,
    featuriser,
)


def test_each_kernel_carries_the_surprise_of_a_label_over_to_candidates():
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


def test_joint_columns_are_a_ridge_regression_and_the_nearest_entries():
    numbers, _ = featuriser().transform(CandidateList(ids=["a", "b", "c"], history=[("a", 1.0)]))
    surprise = 1.0 - 1.0 / (1.0 + math.exp(-1.0))
    similarity = np.array([1.0, 0.0, 1 / math.sqrt(2)])  # the mean of two kernels that agree
    # One entry of similarity 1 to itself, ridge 8: its weight is surprise / (1 + 8).
    assert numbers[:, RIDGE] == pytest.approx(similarity * surprise / 9.0, abs=1e-6)
    assert numbers[:, NEAR] == pytest.approx(similarity, abs=1e-6)
    assert numbers[:, ECHO] == pytest.approx(similarity * surprise, abs=1e-6)
    assert numbers[:, NEAREST_LIKED] == pytest.approx(similarity, abs=1e-6)
    assert numbers[:, NEAREST_PASSED].tolist() == [0.0, 0.0, 0.0]
    assert numbers[:, RIDGE] != pytest.approx(similarity * surprise / 8.0, abs=1e-6)
    passed, _ = featuriser().transform(CandidateList(ids=["a"], history=[("a", 0.0)]))
    assert passed[0, [NEAREST_LIKED, NEAREST_PASSED]].tolist() == [0.0, 1.0]


def test_an_item_passed_over_counts_against_similar_candidates():
    liked, _ = featuriser().transform(CandidateList(ids=["c"], history=[("a", 1.0)]))
    passed, _ = featuriser().transform(CandidateList(ids=["c"], history=[("a", 0.0)]))
    assert liked[0, GENRES] > 0 > passed[0, GENRES]
    repeated, _ = featuriser().transform(CandidateList(ids=["a"], history=[("a", 0.0)]))
    assert repeated[0, [LIKED, PASSED]].tolist() == [0.0, 1.0]


def test_only_the_most_recent_entries_and_known_items_count():
    recent = featuriser(limit=1)
    candidates = CandidateList(ids=["c"], history=[("b", 1.0), ("a", 0.0)])
    short = CandidateList(ids=["c"], history=[("nobody", 1.0), ("a", 0.0)])
    cut, _ = recent.transform(candidates)
    only, _ = featuriser().transform(short)
    assert np.array_equal(cut, only)
    assert not np.array_equal(cut, featuriser().transform(candidates)[0])


def test_an_inline_vector_replaces_the_table_in_its_kernel():
    candidates = CandidateList(ids=["a"], features=[{"style": [0.0, 5.0]}], history=[("b", 1.0)])
    moved, _ = featuriser().transform(candidates)
    kept, _ = featuriser().transform(dataclasses.replace(candidates, features=()))
    surprise = 1.0 - 1.0 / (1.0 + math.exp(1.0))
    assert moved[0, STYLE] == pytest.approx(surprise, abs=1e-6)
    assert kept[0, STYLE] == 0.0


def test_with_a_declared_gain_a_grade_surprises_by_its_gain():
    candidates = CandidateList(ids=["a"], history=[("a", 0.5)])  # grade 2 of 4
    linear = featuriser().transform(candidates)[0]
    declared = {"range": [0, 4], "gain": "exponential", "positive": 1}
    schema = dataclasses.replace(featuriser().schema, label=LabelScale.from_dict(declared))
    graded = Featuriser(schema, featuriser().items).transform(candidates)[0]
    rate = 1.0 / (1.0 + math.exp(-1.0))
    assert linear[0, GENRES] == pytest.approx(0.5 - rate, abs=1e-6)
    assert graded[0, GENRES] == pytest.approx(3 / 15 - rate, abs=1e-6)
    assert graded[0, [LIKED, PASSED]] == pytest.approx([3 / 15, 12 / 15])
    assert graded[0, [NEAREST_LIKED, NEAREST_PASSED]].tolist() == [1.0, 0.0]  # a positive
    assert linear[0, [NEAREST_LIKED, NEAREST_PASSED]].tolist() == [0.0, 1.0]
