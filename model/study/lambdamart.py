"""LambdaMART (Burges, MSR-TR-2010-82) by LightGBM, on the network's own features.

The logged position is no feature, because a service does not have it. Nor does it correct the
gradients (`position` of lightgbm.Dataset): display bias is real, but on RankLens the correction
lowered validation NDCG@10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np

from model.data.lists import Lists
from service.engine.features.schema import GRADES

Array = np.ndarray[Any, Any]

BOOSTERS = 3  # differ only in their seed; the score is their mean
ROUNDS = 500  # upper bound for one booster
# Rounds without a better validation NDCG@10, of the gains, before a booster stops.
PATIENCE = 40
STEPS = 100  # of a graded gain whose labels are no whole grades
COMMON = 0.02  # share of train candidates that must have a token for it to become a column
# Chosen by validation NDCG@10 on RankLens, warm.
PARAMETERS: dict[str, Any] = {
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
    "max_bin": 63,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass(frozen=True)
class LambdaMart:
    """A fitted ranker: boosters over number columns and the presence of common tokens."""

    boosters: tuple[lightgbm.Booster, ...]
    rounds: tuple[int, ...]  # of each booster
    tokens: Array  # int64, those with a column

    def score(self, lists: Lists) -> Array:
        """Return scores float64 [R, N], -inf where padded."""
        scores = np.full(lists.mask.shape, -np.inf)
        columns = feature_table(lists, self.tokens)
        each = [
            b.predict(columns, num_iteration=n)
            for b, n in zip(self.boosters, self.rounds, strict=True)
        ]
        scores[lists.mask] = np.mean(each, axis=0)
        return scores


def fit(train: Lists, stop: Lists | Sequence[int], seed: int, vocabulary: int) -> LambdaMart:
    """Fit on train lists, each with a positive and a negative; the same seed gives the same ranker.

    Args:
        stop: validation lists whose NDCG@10 ends each booster, or the rounds of each booster.
        vocabulary: number of tokens.
    """
    counts = np.bincount(train.tokens[train.mask].ravel(), minlength=vocabulary)
    counts[0] = 0  # the empty slot
    tokens = np.flatnonzero(counts >= COMMON * train.mask.sum())
    data, gains = _data(train, tokens), levels(train)[1]
    valid = [_data(stop, tokens, data)] if isinstance(stop, Lists) else []
    boosters, rounds = [], []
    for number in range(BOOSTERS):
        parameters = {**PARAMETERS, **gains, "seed": BOOSTERS * seed + number}
        if isinstance(stop, Lists):
            halt = lightgbm.early_stopping(PATIENCE, verbose=False)
            booster = lightgbm.train(parameters, data, ROUNDS, valid, callbacks=[halt])
            rounds.append(booster.best_iteration)
        else:
            booster = lightgbm.train(parameters, data, stop[number])
            rounds.append(stop[number])
        boosters.append(booster)
    return LambdaMart(tuple(boosters), tuple(rounds), tokens)


def feature_table(lists: Lists, tokens: Array) -> Array:
    """Return one row per candidate, float32 [X, F + len(tokens)]: numbers, then token indicators.

    Rare tokens are left out: they do not help trees and each costs as much time as a number.
    """
    candidates = lists.tokens[lists.mask]
    present = np.zeros((len(candidates), len(tokens)), np.float32)
    for column, token in enumerate(tokens):
        present[:, column] = (candidates == token).any(axis=1)
    return np.concatenate([lists.numbers[lists.mask], present], axis=1)


def levels(lists: Lists) -> tuple[Array, dict[str, Any]]:
    """Return the relevance of every candidate, int32 [X], and parameters with its gains.

    Binary labels are 0 and 1. Whole grades keep their number above the lowest, and LightGBM's NDCG
    has the gain of the scale. Other graded labels are cut to 100 steps of equal gain.
    """
    scale, labels = lists.scale, lists.labels[lists.mask]
    if not scale.is_graded:
        return scale.is_positive(labels).astype(np.int32), {}
    grades = labels.astype(np.float64) * scale.span
    count = round(scale.span)
    if count == scale.span <= GRADES and np.abs(grades - grades.round()).max(initial=0.0) < 1e-4:
        gains = scale.gain(np.arange(count + 1) / count).astype(np.float64) / scale.gain(1 / count)
        return grades.round().astype(np.int32), {"label_gain": gains.tolist()}
    steps = np.rint(scale.gain(labels) * STEPS).astype(np.int32)
    return steps, {"label_gain": list(range(STEPS + 1))}


def _data(lists: Lists, tokens: Array, bins: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
    """Build LightGBM's data set, in the bins of `bins` if it is not None."""
    relevance, gains = levels(lists)
    sizes = lists.mask.sum(axis=1)
    return lightgbm.Dataset(
        feature_table(lists, tokens),
        relevance,
        bins,
        group=sizes,
        params={**PARAMETERS, **gains},
        free_raw_data=False,
    )
