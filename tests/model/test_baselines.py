"""LambdaMART: what it finds in lists whose truth is known, and what it never looks at."""

import dataclasses

import numpy as np
import pytest

from model import lambdamart
from model.dataset import Lists
from model.metrics import slate_metrics

SIZE = 8


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def make_lists(rows: int, seed: int) -> Lists:
    """Liked are candidates of large numbers, all the more those with token 3."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(rows, SIZE, 5)).astype(np.float32)
    tokens = draw.integers(1, 6, (rows, SIZE, 1))
    mask = np.ones((rows, SIZE), np.bool_)
    mask[::4, -3:] = False
    logit = numbers.sum(axis=2) + 2.5 * (tokens[:, :, 0] == 3) - 1.0
    labels = ((draw.random(mask.shape) < sigmoid(logit)) & mask).astype(np.float32)
    names = tuple(str(row) for row in range(rows))
    return Lists(numbers, tokens * mask[:, :, None], mask, labels, names, names).rankable()


@pytest.fixture(scope="module")
def splits():
    return make_lists(600, 0), make_lists(200, 1), make_lists(200, 2)


@pytest.fixture(scope="module")
def ranker(splits):
    return lambdamart.fit(splits[0], splits[1], 0, 6)


def ndcg(lists, scores):
    slate = np.argsort(-scores, axis=1)
    return slate_metrics(slate, lists.labels)["ndcg@5"].mean()


def test_lambdamart_learns_from_numbers_and_common_tokens(ranker, splits, monkeypatch):
    train, valid, test = splits
    learnt = ndcg(test, ranker.score(test))
    assert learnt > ndcg(test, np.where(test.mask, test.numbers[:, :, 0], -np.inf)) + 0.1
    monkeypatch.setattr(lambdamart, "COMMON", 1.1)
    without = lambdamart.fit(train, valid, 0, 6)
    assert len(without.tokens) == 0
    assert learnt > ndcg(test, without.score(test)) + 0.02


def test_scores_are_finite_exactly_at_candidates_and_read_no_label_of_the_list(ranker, splits):
    test = splits[2]
    scores = ranker.score(test)
    assert np.array_equal(np.isfinite(scores), test.mask)
    other = dataclasses.replace(test, labels=1.0 - test.labels)
    assert np.array_equal(ranker.score(other), scores)


def test_boosters_stop_at_the_validation_optimum_and_can_be_fitted_again_to_it(ranker, splits):
    assert all(0 < rounds < lambdamart.ROUNDS for rounds in ranker.rounds)
    again = lambdamart.fit(splits[0], ranker.rounds, 0, 6)
    assert np.array_equal(again.score(splits[2]), ranker.score(splits[2]))
    longer = lambdamart.fit(splits[0], [r + 5 for r in ranker.rounds], 0, 6)
    assert not np.array_equal(longer.score(splits[2]), ranker.score(splits[2]))


def test_another_seed_gives_another_ranker(ranker, splits):
    other = lambdamart.fit(splits[0], ranker.rounds, 1, 6)
    assert not np.array_equal(other.score(splits[2]), ranker.score(splits[2]))
