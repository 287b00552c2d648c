"""What a re-ranker must beat, on the same lists and features: slates int64 [R, K] of each."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np

from model.dataset import Dataset, Lists

Array = np.ndarray[Any, Any]


def top(scores: Array, mask: Array, slate_length: int) -> Array:
    """Scores [R, N] -> slates int64 [R, K] by falling score, -1 past the end of a list."""
    order = np.argsort(-np.where(mask, scores, -np.inf), axis=1, kind="stable")[:, :slate_length]
    return np.where(np.take_along_axis(mask, order, axis=1), order, -1)


def random_order(lists: Lists, slate_length: int, seed: int) -> Array:
    """The floor."""
    return top(np.random.default_rng(seed).random(lists.mask.shape), lists.mask, slate_length)


def shown_order(lists: Lists, slate_length: int) -> Array:
    """As logged: people answer more at the top of a page, so this carries display bias."""
    position = np.broadcast_to(np.arange(lists.mask.shape[1]), lists.mask.shape)
    return top(-position.astype(np.float64), lists.mask, slate_length)


def item_like_rate(lists: Lists, slate_length: int, dataset: Dataset) -> Array:
    """The smoothed like rate of each item on the train split."""
    rate = dataset.featuriser.schema.history.rate
    if rate is None:
        raise ValueError("history.rate: the schema names no statistic to sort by")
    column = dataset.featuriser.column(rate)
    return top(lists.numbers[:, :, column], lists.mask, slate_length)


def lambdamart(
    train: Lists, valid: Lists, test: Lists, slate_length: int, seed: int, vocabulary: int
) -> Array:
    """LightGBM LambdaMART on the network's own features; stops early on validation NDCG@10.

    Tokens become presence columns where the whole train split shows them at least 200 times: trees
    make nothing of rarer ones.
    """
    counts = np.bincount(train.tokens[train.mask].ravel(), minlength=vocabulary)
    counts[0] = 0
    common = np.flatnonzero(counts >= 200)

    def table(lists: Lists) -> Array:
        tokens = lists.tokens[lists.mask]
        present = np.stack([(tokens == t).any(axis=1) for t in common], axis=1)
        return np.concatenate([lists.numbers[lists.mask], present.astype(np.float32)], axis=1)

    def data(lists: Lists, reference: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
        liked = (lists.labels[lists.mask] > 0.5).astype(np.int32)
        sizes = lists.mask.sum(axis=1)
        return lightgbm.Dataset(table(lists), liked, reference, group=sizes)

    fitted = data(train)
    ranker = lightgbm.train(
        {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "learning_rate": 0.04,
            "num_leaves": 15,
            "min_data_in_leaf": 60,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "feature_fraction": 0.4,
            "lambda_l2": 5.0,
            "lambdarank_truncation_level": 12,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        },
        fitted,
        num_boost_round=600,
        valid_sets=[data(valid, fitted)],
        callbacks=[lightgbm.early_stopping(60, verbose=False)],
    )
    scores = np.full(test.mask.shape, -np.inf)
    scores[test.mask] = ranker.predict(table(test))
    return top(scores, test.mask, slate_length)
