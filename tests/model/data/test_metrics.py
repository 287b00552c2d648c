"""Ranking metrics against values computed by hand."""

import numpy as np
import pytest

from model.data.metrics import average_precision, mean, ndcg, relevance, slate_metrics
from service.engine.features.schema import LabelScale

# One list of five candidates with likes at 1 and 3, and the slate 3, 0, 1.
SLATE = np.array([[3, 0, 1, -1]])
LABELS = np.array([[0.0, 1.0, 0.0, 1.0, 0.0]])


def test_relevance_reads_labels_at_the_slates_indices_and_ignores_empty_positions():
    assert relevance(SLATE, LABELS).tolist() == [[True, False, True, False]]


def test_ndcg_equals_a_value_computed_by_hand():
    # DCG@3 = 1 + 1/2; ideal = 1 + 1/log2(3) = 1.63093.
    value = ndcg(relevance(SLATE, LABELS), np.array([2]), 3)
    assert value == pytest.approx([1.5 / 1.6309298], abs=1e-6)
    assert value != pytest.approx([1.5 / 1.5], abs=1e-6)


def test_average_precision_divides_by_the_positives_that_fit_into_k():
    # Hits at positions 0 and 2: (1/1 + 2/3) / min(3, 2).
    assert average_precision(relevance(SLATE, LABELS), np.array([2]), 3) == pytest.approx([5 / 6])
    # Two positions hold one hit of two possible ones: 1 / 2.
    assert average_precision(relevance(SLATE, LABELS), np.array([2]), 2) == pytest.approx([0.5])


def test_a_perfect_slate_scores_one_and_a_useless_one_zero():
    perfect = slate_metrics(np.array([[1, 3, 0, 2, 4]]), LABELS)
    useless = slate_metrics(np.array([[0, 2]]), LABELS)
    assert all(value[0] == pytest.approx(1.0) for value in perfect.values())
    assert all(value[0] == 0.0 for value in useless.values())


def test_graded_ndcg_sums_two_to_the_grade_minus_one_over_the_ideal_order():
    scale = LabelScale((0, 4), "exponential", 1)
    labels = np.array([[0.0, 2.0, 4.0, 1.0]]) / 4
    metrics = slate_metrics(np.array([[1, 0, 2, -1]]), labels, scale)
    dcg = 3 + 0 + 15 / 2
    ideal = 15 + 3 / np.log2(3) + 1 / 2
    assert metrics["graded ndcg@10"] == pytest.approx([dcg / ideal], abs=1e-6)
    assert metrics["ndcg@10"] == pytest.approx([1.5 / (1 + 1 / np.log2(3) + 1 / 2)])
    linear = slate_metrics(np.array([[1, 0, 2, -1]]), labels, LabelScale((0, 4), "linear"))
    assert linear["graded ndcg@10"] == pytest.approx([(2 + 4 / 2) / (4 + 2 / np.log2(3) + 0.5)])


def test_a_list_without_a_positive_has_graded_metrics_alone():
    scale = LabelScale((0, 4), "exponential", 3)
    metrics = slate_metrics(np.array([[0, 1]]), np.array([[0.25, 0.5]]), scale)
    assert np.isnan(metrics["ndcg@10"]).all()
    assert 0 < metrics["graded ndcg@10"][0] < 1
    assert mean(np.array([np.nan, 0.5, 0.7])) == pytest.approx(0.6)


def test_binary_labels_have_no_graded_metrics():
    assert list(slate_metrics(SLATE, LABELS)) == ["ndcg@5", "ndcg@10", "map@10"]
