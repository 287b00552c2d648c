"""Metrics of a slate as a list: gains that shrink with repeated values, distance and coverage.

Values are those of one attribute of the candidates, such as genres: bool [R, N, V], with a
numbering of its own in every list, false where padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.data.metrics import slate_metrics

Array = np.ndarray[Any, Any]
ALPHA = 0.5  # share of a value's gain that each liked item with it takes away
POSITIONS = 10
METRICS = ("ndcg@10", "alpha-ndcg@10", "distance", "coverage")


def candidate_values(dataset: Dataset, lists: Lists, split: str, name: str) -> Array:
    """Return the values of an item attribute, bool [R, N, V]; an unknown item has none.

    Args:
        lists: some or all of `dataset.lists([split])`.
        name: a column of the item table that holds lists of texts.
    """
    table = dict(dataset.items.select("item_id", name).iter_rows())
    rows = dataset.rows.filter(pl.col("split") == split).collect()
    by_request = dict(rows.group_by("request_id", maintain_order=True).agg("item_id").iter_rows())
    requests = dataset.requests([split])["request_id"].gather(lists.rows)
    listed = [[table.get(item) or () for item in by_request[request]] for request in requests]
    return number_values(listed, lists.longest)


def number_values(listed: Sequence[Sequence[Sequence[str]]], longest: int) -> Array:
    """Number the values of every list by themselves, bool [R, longest, V] with V at least 1."""
    numbers: list[dict[str, int]] = [{} for _ in listed]
    cells = [
        (row, place, numbers[row].setdefault(value, len(numbers[row])))
        for row, candidates in enumerate(listed)
        for place, values in enumerate(candidates)
        for value in values
    ]
    width = max([1, *map(len, numbers)])
    table = np.zeros((len(listed), longest, width), np.bool_)
    if cells:
        table[tuple(np.array(cells).T)] = True
    return table


class Meter:
    """Measures slates of the same lists by METRICS.

    Args:
        lists: R lists with an order.
        values: bool [R, N, V].
    """

    def __init__(self, lists: Lists, values: Array) -> None:
        self.values, self.labels, self.scale = values, lists.labels, lists.scale
        self.liked = lists.scale.is_positive(self.labels) & lists.mask
        ideal = greedy_ideal(self.liked, values, ALPHA, POSITIONS)
        self._ideal = alpha_dcg(ideal, self.liked, values, ALPHA)

    def measure(self, slate: Array) -> Array:
        """Return METRICS, float32 [M, R], of slates int64 [R, K] (-1 = empty).

        A list without a liked candidate that has a value has NaN everywhere, since it has no
        alpha-NDCG.
        """
        head = slate[:, :POSITIONS]
        with np.errstate(invalid="ignore"):
            metrics = {
                "ndcg@10": slate_metrics(head, self.labels, self.scale)["ndcg@10"],
                "alpha-ndcg@10": alpha_dcg(head, self.liked, self.values, ALPHA) / self._ideal,
                "distance": intra_list_distance(head, self.values),
                "coverage": coverage(head, self.values),
            }
        table = np.stack([metrics[name] for name in METRICS])
        table[:, self._ideal == 0.0] = np.nan
        return table.astype(np.float32)


def alpha_dcg(slate: Array, liked: Array, values: Array, alpha: float) -> Array:
    """Return alpha-DCG [R] (Clarke et al., SIGIR 2008) of slates int64 [R, K].

    A liked item gains 1 for each of its values, times (1 - alpha) for each liked item with that
    value before it, discounted as in DCG.

    Args:
        liked: bool [R, N].
    """
    row, total = np.arange(len(slate)), np.zeros(len(slate))
    left = np.ones((len(slate), values.shape[2]))
    for position in range(slate.shape[1]):
        item = slate[:, position]
        gaining = values[row, item] & (liked[row, item] & (item >= 0))[:, None]
        total += (left * gaining).sum(axis=1) / np.log2(position + 2.0)
        left[gaining] *= 1.0 - alpha
    return total


def greedy_ideal(liked: Array, values: Array, alpha: float, k: int) -> Array:
    """Return slates int64 [R, k] of the liked item with the largest gain at each position.

    They stand for the ideal of alpha-NDCG, as is usual, since the best slate is hard to compute.
    """
    row = np.arange(len(liked))
    open_items, left = liked.copy(), np.ones((len(liked), values.shape[2]))
    slate = np.full((len(liked), k), -1, np.int64)
    for position in range(k):
        gain = np.where(open_items, np.einsum("rnv,rv->rn", values, left, optimize=True), -1.0)
        item = gain.argmax(axis=1)
        is_left = open_items[row, item]
        slate[:, position] = np.where(is_left, item, -1)
        left[values[row, item] & is_left[:, None]] *= 1.0 - alpha
        open_items[row, item] = False
    return slate


def cosine_similarity(values: Array) -> Array:
    """Return the cosine of the value indicators of candidates, float32 [R, N, N].

    It is 0 for a candidate without values, with itself too.
    """
    unit = values / np.sqrt(np.maximum(values.sum(axis=2, keepdims=True), 1.0))
    unit = unit.astype(np.float32)
    return np.asarray(unit @ unit.transpose(0, 2, 1))


def intra_list_distance(slate: Array, values: Array) -> Array:
    """Return the mean of 1 - cosine over the pairs of items of slates int64 [R, K], NaN for one."""
    present = slate >= 0
    of_slate = values[np.arange(len(slate))[:, None], slate] & present[:, :, None]
    above = np.triu(np.ones((slate.shape[1], slate.shape[1]), np.bool_), 1)
    pairs = present[:, :, None] & present[:, None, :] & above
    distance = (1.0 - cosine_similarity(of_slate)) * pairs
    with np.errstate(invalid="ignore"):
        return np.asarray(distance.sum(axis=(1, 2), dtype=np.float64) / pairs.sum(axis=(1, 2)))


def coverage(slate: Array, values: Array) -> Array:
    """Return the share [R] of the values of a list that its slate int64 [R, K] has; NaN if none."""
    of_slate = values[np.arange(len(slate))[:, None], slate] & (slate >= 0)[:, :, None]
    with np.errstate(invalid="ignore"):
        covered, present = of_slate.any(axis=1).sum(axis=1), values.any(axis=1).sum(axis=1)
        return np.asarray(covered / present)
