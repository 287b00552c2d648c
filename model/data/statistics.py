"""Fit smoothed like rates on the train split, and vectors of item text on all items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from model.data import labels
from service.engine.features.schema import BINARY, LabelScale

FOLDS = 10
SEED = 0

Floats = npt.NDArray[np.float32]


def folds(requests: int) -> npt.NDArray[np.int32]:
    """Return a fold for each of R train requests, int32 [R]; fold sizes differ by at most one."""
    order = np.random.default_rng(SEED).permutation(requests)
    return (order % min(FOLDS, max(requests, 1))).astype(np.int32)


def like_counts(train: pl.LazyFrame, scale: LabelScale = BINARY) -> pl.DataFrame:
    """Count shows and likes, the sum of gains, of each item in each fold.

    Args:
        train: item_id str, label f32, fold i32.

    Returns item_id str, fold i32, shows i64, likes i64 (f64 of graded gains), sorted by item and
    fold.
    """
    return (
        train.group_by("item_id", "fold")
        .agg(
            pl.len().cast(pl.Int64).alias("shows"),
            labels.gain(scale).sum().alias("likes"),
        )
        .sort("item_id", "fold")
        .collect(engine="streaming")
    )


def like_rates(
    counts: pl.DataFrame, prior_strength: float, totals: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, float]:
    """Return the log-odds of each item's smoothed like rate over all folds, as serving uses them.

        logit((likes + s * p0) / (shows + s)), s = prior_strength, p0 = the mean over all shows

    Returns (item_id str, value f64), and logit(p0), which is the value of an item without shows.

    Args:
        totals: shows and likes of all items, if `counts` holds some of them only.
    """
    of_item = counts.group_by("item_id", maintain_order=True).agg(pl.col("shows", "likes").sum())
    every = counts if totals is None else totals
    prior = every.select(_prior(pl.col("likes").sum(), pl.col("shows").sum()).alias("prior"))
    (p0,) = prior["prior"]
    value = _log_odds(pl.col("likes"), pl.col("shows"), pl.lit(p0), prior_strength)
    unseen = prior.select((pl.col("prior") / (1.0 - pl.col("prior"))).log()).item()
    return of_item.select("item_id", value.alias("value")), float(unseen)


def out_of_fold_like_rates(
    counts: pl.DataFrame, prior_strength: float, totals: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return the same log-odds for each item and fold, computed from the other folds alone.

    Likes, shows and p0 all leave the fold out, so no label of a list enters the values that this
    list is trained with. Returns item_id str, fold i32, value f64.

    Args:
        totals: fold, shows and likes of all items, if `counts` holds some of them only.
    """
    columns = ("shows", "likes")
    shows, likes = (pl.col(c).sum().over("item_id") - pl.col(c) for c in columns)
    of_fold = (counts if totals is None else totals).group_by("fold").agg(pl.col(columns).sum())
    others = of_fold.select(
        "fold", *((pl.col(c).sum() - pl.col(c)).alias(f"__{c}") for c in columns)
    )
    prior = _prior(pl.col("__likes"), pl.col("__shows"))
    value = _log_odds(likes, shows, prior, prior_strength)
    joined = counts.join(others, on="fold", how="left", maintain_order="left")
    return joined.select("item_id", "fold", value.alias("value"))


def _prior(likes: pl.Expr, shows: pl.Expr) -> pl.Expr:
    """Return the mean like rate, at least half a show away from 0 and 1 so its logit is finite."""
    floor = 0.5 / (shows + 1.0)
    rate = likes / pl.when(shows > 0).then(shows).otherwise(1)
    return pl.max_horizontal(pl.min_horizontal(rate, 1.0 - floor), floor)


def _log_odds(likes: pl.Expr, shows: pl.Expr, prior: pl.Expr, strength: float) -> pl.Expr:
    return ((likes + strength * prior) / (shows - likes + strength * (1.0 - prior))).log()


def token_vectors(bags: Sequence[Sequence[str]], width: int) -> Floats:
    """Return TF-IDF vectors of I bags of tokens, truncated by SVD: float32 [I, width], unit rows.

    Tokens that occur in one bag only are left out because they relate no two items. A bag without
    tokens gives a row of zeros; columns beyond the rank are zeros too. A fixed start vector and
    fixed signs make the result deterministic.
    """
    frequency = Counter(token for bag in bags for token in set(bag))
    vocabulary = {
        token: i for i, token in enumerate(sorted(t for t in frequency if frequency[t] > 1))
    }
    vectors = np.zeros((len(bags), width), np.float32)
    if not vocabulary:
        return vectors
    rows, columns, values = [], [], []
    for row, bag in enumerate(bags):
        for token, count in sorted(Counter(t for t in bag if t in vocabulary).items()):
            rows.append(row)
            columns.append(vocabulary[token])
            values.append((1.0 + np.log(count)) * np.log(len(bags) / frequency[token]))
    shape = (len(bags), len(vocabulary))
    matrix = csr_array((_scale_to_unit_rows(values, rows, len(bags)), (rows, columns)), shape=shape)
    if width < min(shape):
        left, scale, right = svds(matrix, k=width, v0=np.ones(min(shape)), tol=1e-10)
        left, scale, right = left[:, ::-1], scale[::-1], right[::-1]
    else:
        left, scale, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    dense = (left * (scale * signs))[:, :width]
    length = np.linalg.norm(dense, axis=1, keepdims=True)
    dense = np.where(length > 1e-6, dense / np.maximum(length, 1e-6), 0.0)
    vectors[:, : dense.shape[1]] = np.round(dense, 6)
    return vectors


def _scale_to_unit_rows(values: list[Any], rows: list[int], count: int) -> npt.NDArray[np.float64]:
    """Scale the entries of each row of a sparse matrix to a unit row."""
    entries = np.asarray(values, np.float64)
    length = np.sqrt(np.bincount(rows, entries**2, minlength=count))
    return np.asarray(entries / np.maximum(length[rows], 1e-12))
