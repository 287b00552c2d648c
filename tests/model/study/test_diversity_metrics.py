"""Metrics of slates as lists, against hand-computed values and plain loops."""

import itertools
import math

import numpy as np
import pytest

from model.data.lists import Arrays, Lists
from model.study.diversity_metrics import (
    METRICS,
    Meter,
    alpha_dcg,
    cosine_similarity,
    coverage,
    greedy_ideal,
    intra_list_distance,
    number_values,
)

LISTED = [[["a", "b"], ["a"], ["b", "c"], []]]
VALUES = number_values(LISTED, 5)
LIKED = np.array([[True, True, True, False, False]])


def random_lists(seed, lists=20, longest=7, width=4):
    draw = np.random.default_rng(seed)
    values = draw.random((lists, longest, width)) < 0.4
    liked = draw.random((lists, longest)) < 0.5
    slate = np.stack([draw.permutation(longest)[:5] for _ in range(lists)])
    slate[::3, 4] = -1
    return slate, liked, values


def gain_by_loops(slate, liked, values, alpha):
    counts, total = [0] * values.shape[1], 0.0
    for position, item in enumerate(slate):
        if item < 0 or not liked[item]:
            continue
        for value in np.flatnonzero(values[item]):
            total += (1 - alpha) ** counts[value] / math.log2(position + 2)
            counts[value] += 1
    return total


def test_values_are_numbered_by_list_and_padded_with_none():
    assert VALUES.shape == (1, 5, 3)
    assert VALUES[0].sum(axis=1).tolist() == [2, 1, 2, 0, 0]
    assert number_values([[[]]], 2).shape == (1, 2, 1)


def test_the_gain_of_a_slate_is_the_one_computed_by_hand():
    slate = np.array([[0, 1, 2]])
    by_hand = 2 + 0.5 / math.log2(3) + (0.5 + 1) / 2
    assert alpha_dcg(slate, LIKED, VALUES, 0.5)[0] == pytest.approx(by_hand, abs=1e-12)
    assert alpha_dcg(slate, LIKED, VALUES, 0.4)[0] != pytest.approx(by_hand, abs=1e-12)
    ideal = 2 + 1.5 / math.log2(3) + 0.5 / 2
    assert greedy_ideal(LIKED, VALUES, 0.5, 4).tolist() == [[0, 2, 1, -1]]
    assert alpha_dcg(np.array([[0, 2, 1]]), LIKED, VALUES, 0.5)[0] == pytest.approx(ideal)


def test_the_gain_equals_that_of_plain_loops():
    slate, liked, values = random_lists(0)
    loops = [gain_by_loops(*row, 0.5) for row in zip(slate, liked, values, strict=True)]
    np.testing.assert_allclose(alpha_dcg(slate, liked, values, 0.5), loops, atol=1e-12)
    assert np.abs(alpha_dcg(slate[:, ::-1], liked, values, 0.5) - loops).max() > 1e-3


def test_the_ideal_takes_the_largest_gain_at_each_position():
    _, liked, values = random_lists(1)
    for slate, likes, of_list in zip(
        greedy_ideal(liked, values, 0.5, 4), liked, values, strict=True
    ):
        for position in range(4):
            before = slate[:position].tolist()
            left = [item for item in np.flatnonzero(likes) if item not in before]
            if not left:
                assert slate[position] == -1
                continue
            totals = [gain_by_loops([*before, item], likes, of_list, 0.5) for item in left]
            total = gain_by_loops(slate[: position + 1], likes, of_list, 0.5)
            assert total == pytest.approx(max(totals), abs=1e-12)


def test_no_slate_of_distinct_values_gains_more_than_the_ideal():
    _, liked, _ = random_lists(2, lists=6, longest=5)
    values = np.broadcast_to(np.eye(5, dtype=bool), (6, 5, 5))
    ideal = alpha_dcg(greedy_ideal(liked, values, 0.5, 3), liked, values, 0.5)
    slates = [np.tile(order, (6, 1)) for order in itertools.permutations(range(5), 3)]
    gains = np.array([alpha_dcg(slate, liked, values, 0.5) for slate in slates])
    np.testing.assert_allclose(gains.max(axis=0), ideal, atol=1e-12)
    assert (gains.min(axis=0) < ideal - 1e-3).any()


def test_a_list_without_a_liked_item_that_has_values_has_no_metrics():
    labels = np.array([[1.0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0]], np.float32)
    shape = (2, 5)
    arrays = Arrays.zeros(*shape, 1, 1)._replace(mask=np.ones(shape, np.bool_), labels=labels)
    table = Meter(Lists.of(arrays._asdict()), np.repeat(VALUES, 2, 0)).measure(np.array([[0], [3]]))
    assert table.shape == (len(METRICS), 2)
    assert table[:2, 0].tolist() == [1.0, 1.0]
    assert np.isnan(table[:, 1]).all()


def test_distance_and_coverage_of_a_slate_are_those_computed_by_hand():
    slate = np.array([[0, 1, 3, -1]])
    pairs = [1 - 1 / math.sqrt(2), 1.0, 1.0]
    assert intra_list_distance(slate, VALUES)[0] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert coverage(slate, VALUES)[0] == pytest.approx(2 / 3)
    assert np.isnan(intra_list_distance(np.array([[0, -1]]), VALUES)[0])


def test_a_candidate_is_equal_to_itself_unless_it_has_no_values():
    diagonal = np.diagonal(cosine_similarity(VALUES)[0])
    np.testing.assert_allclose(diagonal, [1, 1, 1, 0, 0], atol=1e-6)
