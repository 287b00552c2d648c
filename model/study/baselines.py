"""Baselines on the lists and features of the re-ranker; each returns slates int64 [R, K]."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.study.item_logit import item_effects
from model.study.lambdamart import fit as fit_lambdamart

Array = np.ndarray[Any, Any]


def top(scores: Array, mask: Array, slate_length: int) -> Array:
    """Sort scores [R, N] into slates int64 [R, K], best first; -1 past the end of a list."""
    order = np.argsort(-np.where(mask, scores, -np.inf), axis=1, kind="stable")[:, :slate_length]
    return np.where(np.take_along_axis(mask, order, axis=1), order, -1)


def random_order(lists: Lists, slate_length: int, seed: int) -> Array:
    """Shuffle the candidates: the lower bound of every metric."""
    scores = np.asarray(np.random.default_rng(seed).random(lists.mask.shape))
    return top(scores, lists.mask, slate_length)


def shown_order(lists: Lists, slate_length: int) -> Array:
    """Keep the logged order. Users react more to the top of a page, so it has display bias."""
    position = np.broadcast_to(np.arange(lists.mask.shape[1]), lists.mask.shape)
    return top(-position.astype(np.float64), lists.mask, slate_length)


def item_like_rate(lists: Lists, slate_length: int, dataset: Dataset) -> Array:
    """Sort by the smoothed like rate of each item on the train split.

    Raises ValueError if the schema's history names no rate.
    """
    rate = dataset.featuriser.schema.history.rate
    if rate is None:
        raise ValueError(
            "history.rate: the schema names no statistic to sort by; set it to a statistic"
        )
    column = dataset.featuriser.column(rate)
    return top(lists.numbers[:, :, column], lists.mask, slate_length)


def item_logit(lists: Lists, slate_length: int, dataset: Dataset, split: str) -> Array:
    """Sort by each item's effect on the train split, fitted by ridge logistic regression.

    `lists` holds some or all of `dataset.lists([split])`.
    """
    effects = item_effects(dataset)
    impressions = dataset.rows.filter(pl.col("split") == split).collect()
    lists_of_items = impressions.group_by("request_id", maintain_order=True).agg("item_id")
    by_request = dict(lists_of_items.iter_rows())
    requests = dataset.requests([split])["request_id"].gather(lists.rows)
    scores = np.zeros(lists.mask.shape)
    for row, request in enumerate(requests):
        values = [effects.get(item, 0.0) for item in by_request[request]]  # 0: not in the table
        scores[row, : len(values)] = values
    return top(scores, lists.mask, slate_length)


def lambdamart(
    train: Lists, valid: Lists, test: Lists, slate_length: int, seed: int, vocabulary: int
) -> Array:
    """Sort by LightGBM's LambdaMART on the network's own features.

    Boosting stops early on the NDCG@10 of `valid`.
    """
    ranker = fit_lambdamart(train, valid, seed, vocabulary)
    return top(ranker.score(test), test.mask, slate_length)
