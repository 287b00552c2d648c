"""Ranking metrics over slates."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.engine.features.schema import BINARY, LabelScale

Array = np.ndarray[Any, Any]


def relevance(slate: Array, labels: Array, scale: LabelScale = BINARY) -> Array:
    """Return binary gains bool [R, K] of slate int64 [R, K] (-1 = empty), labels float [R, N]."""
    positive = np.take_along_axis(scale.is_positive(labels), np.maximum(slate, 0), axis=1)
    return positive & (slate >= 0)


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


def graded_ndcg(slate: Array, gains: Array, k: int) -> Array:
    """Return NDCG@k [R] of slate int64 [R, K] (-1 = empty) with gains [R, N] in place of 0 and 1.

    With an exponential gain, a label y has the gain 2^(y - low) - 1 up to a factor that cancels.
    The ideal order sorts the whole candidate list, so a slate shorter than k scores less.
    """
    weight = 1.0 / np.log2(np.arange(k) + 2.0)
    head = np.take_along_axis(gains, np.maximum(slate, 0), axis=1) * (slate >= 0)
    ideal = -np.sort(-gains, axis=1)
    dcg, best = (
        (values[:, :k] * weight[: values.shape[1]]).sum(axis=1, dtype=np.float64)
        for values in (head, ideal)
    )
    return np.asarray(dcg / best)


def average_precision(gains: Array, positives: Array, k: int) -> Array:
    """Return AP@k [R]: the sum of precision at each hit within k, over min(k, positives)."""
    head = gains[:, :k]
    precision = np.cumsum(head, axis=1) / (np.arange(head.shape[1]) + 1.0)
    return np.asarray((precision * head).sum(axis=1) / np.minimum(positives, k))


def slate_metrics(slate: Array, labels: Array, scale: LabelScale = BINARY) -> dict[str, Array]:
    """Return every reported metric per list [R] of slate int64 [R, K], labels float [R, N].

    Labels are 0 where padded. Each list must have two different gains. With a graded gain, graded
    metrics come too, and binary ones are NaN for a list without a positive.
    """
    hits = relevance(slate, labels, scale)
    positives = scale.is_positive(labels).sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 without a positive
        metrics = {
            "ndcg@5": ndcg(hits, positives, 5),
            "ndcg@10": ndcg(hits, positives, 10),
            "map@10": average_precision(hits, positives, 10),
        }
    if scale.is_graded:
        gains = scale.gain(labels)
        metrics |= {f"graded ndcg@{k}": graded_ndcg(slate, gains, k) for k in (5, 10)}
    return metrics


def selecting_metric(scale: LabelScale) -> str:
    """Return the name of the metric that selects epochs: NDCG@10, graded with a graded gain."""
    return "graded ndcg@10" if scale.is_graded else "ndcg@10"


def mean(values: Array) -> float:
    """Return the mean of values [R] over the lists that have the metric, NaN if none has."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
