"""Diversification of scores after ranking: each method composes slates greedily from logits.

A method gets the logits of a like, float [R, N], and the values of one attribute, bool [R, N, V].
Every item of its slate has the largest value of a criterion with these parts:

    plain  logit
    bonus  logit + weight * ln(sum of u * (1 - decay)^count over the item's values)
    MMR    (1 - weight) * relevance - weight * largest cosine to an item of the slate
    xQuAD  (1 - weight) * p + weight * sum of share_v * p * product of (1 - redundancy * p_j)
    DPP    (1 - weight) * logit + weight * ln(determinant's growth)
    PM-2   weight * quotient_v * p for the value v that is next, + (1 - weight) * the others' sum

p is the probability of the logit. MMR is by Carbonell and Goldstein (SIGIR 1998), xQuAD by Santos
et al. (WWW 2010), the greedy MAP of a determinantal point process by Chen et al. (NeurIPS 2018) and
PM-2 by Dang and Croft (SIGIR 2012). bonus is the law of the decoding loop over fixed logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit

from model.study.diversity_metrics import cosine_similarity

Array = np.ndarray[Any, Any]
# (items chosen last int64 [R] or None at first) -> criterion [R, N]
Criterion = Callable[[Array | None], Array]
FLOOR = 1e-30  # of the sum below a logarithm
RIDGE = 1e-6  # below the determinant's growth, where a candidate repeats the slate


def compose(criterion: Criterion, mask: Array, length: int) -> Array:
    """Take the largest criterion at each position, int64 [R, length]; -1 past the end of a list."""
    row, left = np.arange(len(mask)), mask.copy()
    slate = np.full((len(mask), length), -1, np.int64)
    item = None
    for position in range(min(length, mask.shape[1])):
        item = np.where(left, criterion(item), -np.inf).argmax(axis=1)
        slate[:, position] = np.where(left[row, item], item, -1)
        left[row, item] = False
    return slate


def bonus(logits: Array, values: Array, weight: float, law: str, decay: float) -> Criterion:
    """Add the bonus of the decoding loop; see the law in service/engine/intent.py.

    Args:
        law: sum, or mean over the values of the item.
    """
    row, kept = np.arange(len(values)), np.ones((len(values), values.shape[2]), np.float32)
    count = values.sum(axis=2)
    unit = values / np.maximum(count, 1)[:, :, None] if law == "mean" else values
    unit = unit.astype(np.float32)

    def criterion(item: Array | None) -> Array:
        if item is not None:
            kept[values[row, item]] *= 1.0 - decay
        fresh = np.where(count > 0, _weigh(unit, kept), 1.0)
        return np.asarray(logits + weight * np.log(np.maximum(fresh, FLOOR)))

    return criterion


def mmr(logits: Array, values: Array, weight: float, relevance: str) -> Criterion:
    """Weigh relevance against the largest similarity to the slate.

    Args:
        relevance: probability or logit.
    """
    row, similarity = np.arange(len(values)), cosine_similarity(values)
    scores = expit(logits) if relevance == "probability" else logits
    nearest = np.zeros(logits.shape)

    def criterion(item: Array | None) -> Array:
        if item is not None:
            np.maximum(nearest, similarity[row, :, item], out=nearest)
        return np.asarray((1.0 - weight) * scores - weight * nearest)

    return criterion


def xquad(logits: Array, values: Array, weight: float, prior: str, redundancy: float) -> Criterion:
    """Weigh relevance against the expected gain in values that the slate does not serve yet.

    With weight 1, a uniform prior and redundancy alpha this is the greedy ascent of the expected
    alpha-DCG.

    Args:
        prior: shares of the values, uniform or by mass (`value_shares`).
        redundancy: probability that a liked item satisfies the interest in its values.
    """
    row, likes = np.arange(len(values)), expit(logits)
    members = values.astype(np.float32)
    left = value_shares(likes, values, prior).astype(np.float32)

    def criterion(item: Array | None) -> Array:
        if item is not None:
            served = np.float32(redundancy) * likes[row, item][:, None]
            left[:] *= np.where(values[row, item], 1.0 - served, 1.0)
        return np.asarray(likes * ((1.0 - weight) + weight * _weigh(members, left)))

    return criterion


def dpp(logits: Array, values: Array, weight: float, mixing: float) -> Criterion:
    """Ascend the log-determinant of the kernel diag(q) S diag(q), q a power of the odds.

    S is `mixing` times the cosine similarity plus 1 - mixing on the diagonal; its Cholesky rows
    grow by one element for each item.
    """
    row, similarity = np.arange(len(values)), mixing * cosine_similarity(values)
    similarity[:, np.arange(values.shape[1]), np.arange(values.shape[1])] = 1.0
    growth, rows = np.ones(logits.shape), np.zeros((*logits.shape, 0))

    def criterion(item: Array | None) -> Array:
        nonlocal rows
        if item is not None:
            dot = np.einsum("rnk,rk->rn", rows, rows[row, item])
            element = (similarity[row, :, item] - dot) / np.sqrt(growth[row, item])[:, None]
            rows = np.concatenate([rows, element[:, :, None]], axis=2)
            np.maximum(growth - element**2, RIDGE, out=growth)
        return np.asarray((1.0 - weight) * logits + weight * np.log(growth))

    return criterion


def pm2(logits: Array, values: Array, weight: float, prior: str) -> Criterion:
    """Give values seats in proportion to their shares (Sainte-Lague), and fill the next seat.

    Items without values come last, by their probability.

    Args:
        prior: as for `xquad`.
    """
    row, likes = np.arange(len(values)), expit(logits)
    votes = (values * likes[:, :, None]).astype(np.float32)
    shares, seats = value_shares(likes, values, prior), np.zeros((len(values), values.shape[2]))

    def criterion(item: Array | None) -> Array:
        if item is not None:
            taken = votes[row, item]
            seats[:] += taken / np.maximum(taken.sum(axis=1, keepdims=True), FLOOR)
        quotient = shares / (2.0 * seats + 1.0)
        following = quotient.argmax(axis=1)
        factor = (1.0 - weight) * quotient
        factor[row, following] = weight * quotient[row, following]
        # The last term decides only between items that the others leave equal.
        return np.asarray(_weigh(votes, factor.astype(np.float32)) + 1e-9 * likes)

    return criterion


def value_shares(likes: Array, values: Array, prior: str) -> Array:
    """Return a share for each value of a list, [R, V]; those of a list add up to 1.

    Args:
        likes: probabilities [R, N].
        prior: uniform over the values of the list, or mass, in proportion to the expected number
            of liked candidates with the value.
    """
    present = values.any(axis=1).astype(np.float64)
    if prior == "mass":
        present *= np.einsum("rnv,rn->rv", values.astype(np.float64), likes, optimize=True)
    return np.asarray(present / np.maximum(present.sum(axis=1, keepdims=True), FLOOR))


def _weigh(values: Array, weights: Array) -> Array:
    """Sum values [R, N, V] by weights [R, V] into [R, N]."""
    return np.asarray((values @ weights[:, :, None])[:, :, 0])
