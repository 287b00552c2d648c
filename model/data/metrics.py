"""Ranking metrics over slates, with their definitions."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def relevance(slate: Array, labels: Array) -> Array:
    """Binary gain bool [R, K] of slate int64 [R, K] (-1 = empty) under labels float [R, N]."""
    gains = np.take_along_axis(labels, np.maximum(slate, 0), axis=1) > 0.5
    return gains & (slate >= 0)


def ndcg(gains: Array, positives: Array, k: int) -> Array:
    """NDCG@k [R]: sum of gain / log2(position + 2), over the same for positives first.

    positives [R] counts those of the whole candidate list, so that a slate shorter than k loses.
    """
    weight = 1.0 / np.log2(np.arange(k) + 2.0)
    width = min(k, gains.shape[1])
    dcg = (gains[:, :width] * weight[:width]).sum(axis=1)
    ideal = np.concatenate([[0.0], np.cumsum(weight)])[np.minimum(positives, k)]
    return np.asarray(dcg / ideal)


def average_precision(gains: Array, positives: Array, k: int) -> Array:
    """MAP@k's term [R]: precision at each hit within k, over min(k, positives)."""
    head = gains[:, :k]
    precision = np.cumsum(head, axis=1) / (np.arange(head.shape[1]) + 1.0)
    return np.asarray((precision * head).sum(axis=1) / np.minimum(positives, k))


def slate_metrics(slate: Array, labels: Array) -> dict[str, Array]:
    """Every reported metric, per list [R]; each list must have a positive."""
    gains, positives = relevance(slate, labels), (labels > 0.5).sum(axis=1)
    return {
        "ndcg@5": ndcg(gains, positives, 5),
        "ndcg@10": ndcg(gains, positives, 10),
        "map@10": average_precision(gains, positives, 10),
    }


def interval(values: Array, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values [R] and its 95 % bootstrap interval over lists; [S, R] over seeds too.

    Seeds and lists are drawn anew together, so that the interval tells of other trainings and of
    other lists.
    """
    by_seed = np.atleast_2d(values)
    seeds, lists = by_seed.shape
    seed_counts, list_counts = _draw_counts(seeds, lists, resamples, seed)
    means = ((list_counts @ by_seed.T) * seed_counts).sum(axis=1) / (seeds * lists)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(by_seed.mean()), float(low), float(high)


@functools.lru_cache(maxsize=4)
def _draw_counts(seeds: int, lists: int, resamples: int, seed: int) -> tuple[Array, Array]:
    """How often each seed and each list is drawn, float [resamples, S] and [resamples, R]."""
    draw = np.random.default_rng(seed)
    sizes = lists, seeds
    list_counts, seed_counts = (draw.multinomial(n, np.full(n, 1.0 / n), resamples) for n in sizes)
    return seed_counts.astype(np.float64), list_counts.astype(np.float64)
