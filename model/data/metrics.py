"""Ranking metrics over slates."""

from __future__ import annotations

import functools
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


def interval(values: Array, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Return mean and 95 % bootstrap interval of values [R] over lists, or [S, R] over seeds too.

    Seeds and lists are resampled together, so the interval covers other trainings as well as other
    lists.
    """
    by_seed = np.atleast_2d(values)
    seeds, lists = by_seed.shape
    seed_counts, list_counts = _draw_counts(seeds, lists, resamples, seed)
    means = ((list_counts @ by_seed.T) * seed_counts).sum(axis=1) / (seeds * lists)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(by_seed.mean()), float(low), float(high)


@functools.lru_cache(maxsize=4)
def _draw_counts(seeds: int, lists: int, resamples: int, seed: int) -> tuple[Array, Array]:
    """Return how often each seed and list is drawn, float [resamples, S] and [resamples, R]."""
    draw = np.random.default_rng(seed)
    sizes = lists, seeds
    list_counts, seed_counts = (draw.multinomial(n, np.full(n, 1.0 / n), resamples) for n in sizes)
    return seed_counts.astype(np.float64), list_counts.astype(np.float64)
