"""Ranking metrics over slates."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def relevance(slate: Array, labels: Array) -> Array:
    """Return binary gains bool [R, K] of slate int64 [R, K] (-1 = empty), labels float [R, N]."""
    gains = np.take_along_axis(labels, np.maximum(slate, 0), axis=1) > 0.5
    return gains & (slate >= 0)


def ndcg(gains: Array, positives: Array, k: int) -> Array:
    """Return NDCG@k [R]: the sum of gain / log2(position + 2) over that of the ideal order.

    positives [R] counts the positives of the whole candidate list, so a slate shorter than k
    scores less.
    """
    weight = 1.0 / np.log2(np.arange(k) + 2.0)
    width = min(k, gains.shape[1])
    dcg = (gains[:, :width] * weight[:width]).sum(axis=1)
    ideal = np.concatenate([[0.0], np.cumsum(weight)])[np.minimum(positives, k)]
    return np.asarray(dcg / ideal)


def average_precision(gains: Array, positives: Array, k: int) -> Array:
    """Return AP@k [R]: the sum of precision at each hit within k, over min(k, positives)."""
    head = gains[:, :k]
    precision = np.cumsum(head, axis=1) / (np.arange(head.shape[1]) + 1.0)
    return np.asarray((precision * head).sum(axis=1) / np.minimum(positives, k))


def slate_metrics(slate: Array, labels: Array) -> dict[str, Array]:
    """Return every reported metric per list [R]; each list must have a positive."""
    gains, positives = relevance(slate, labels), (labels > 0.5).sum(axis=1)
    return {
        "ndcg@5": ndcg(gains, positives, 5),
        "ndcg@10": ndcg(gains, positives, 10),
        "map@10": average_precision(gains, positives, 10),
    }
