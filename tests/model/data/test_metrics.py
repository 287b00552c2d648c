"""Ranking metrics against values computed by hand."""

import numpy as np
import pytest

from model.data.metrics import average_precision, ndcg, relevance, slate_metrics

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
