"""Choose parameters by validation, and compare fronts at equal NDCG@10.

A front is the path of mean NDCG@10 and mean alpha-NDCG@10 over the weights of a method. Between
neighbouring weights it is a line, whose points are reached by drawing one of the two for each
request. Its height at a level of NDCG@10 is the largest alpha-NDCG@10 of a point with at least that
NDCG@10.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.data.intervals import rounded
from model.study.diversity_cells import BONUS, LOOP, PLAIN, Front
from model.study.diversity_metrics import METRICS

Array = np.ndarray[Any, Any]
KEPT = 0.97  # share of the plain slate's NDCG@10 at which parameters are compared
DIGITS = 4
NDCG, ALPHA_NDCG = METRICS.index("ndcg@10"), METRICS.index("alpha-ndcg@10")
Values = Mapping[Front, Array]  # METRICS of one split, [S, W, M, R]; S seeds, W weights


@dataclass(frozen=True)
class Point:
    """A point of a front: `share` of the weight number `left + 1` and 1 - share of `left`."""

    left: int
    share: float
    height: float


def highest_point(ndcg: Sequence[float], metric: Sequence[float], level: float) -> Point | None:
    """Return the highest point of a front with at least this NDCG@10; None if there is none.

    Args:
        ndcg, metric: means of NDCG@10 and of another metric by weight, each [W].
    """
    points = [
        Point(index, 0.0, height) for index, height in enumerate(metric) if ndcg[index] >= level
    ]
    for left, (before, after) in enumerate(itertools.pairwise(ndcg)):
        if min(before, after) < level <= max(before, after):
            share = (level - before) / (after - before)
            height = (1.0 - share) * metric[left] + share * metric[left + 1]
            points.append(Point(left, share, height))
    return max(points, key=lambda point: point.height, default=None)


def means(values: Array, metric: int = ALPHA_NDCG) -> tuple[list[float], list[float]]:
    """Return mean NDCG@10 and mean of a metric by weight, each [W], of values [S, W, M, R]."""
    over_lists = values.mean(axis=(0, 3), dtype=np.float64)
    return over_lists[:, NDCG].tolist(), over_lists[:, metric].tolist()


def height(values: Array, level: float) -> float | None:
    """Return the height of a front at a level of NDCG@10, None if it does not reach the level."""
    point = highest_point(*means(values), level)
    return None if point is None else point.height


def compared_level(values: Values) -> float:
    """Return KEPT times the mean NDCG@10 of the generator's slates without diversity."""
    loop = next(front for front in values if front.method is LOOP)
    return KEPT * means(values[loop])[0][LOOP.weights.index(0.0)]


def choose(valid: Values) -> list[Front]:
    """Return the front with the best parameters for each ranker and method, by validation.

    Compared are heights at KEPT of the plain slate's NDCG@10. If no parameters of a method reach
    that level, those with the largest NDCG@10 are taken.
    """
    level = compared_level(valid)

    def merit(front: Front) -> tuple[float, float]:
        high = height(valid[front], level)
        return -np.inf if high is None else high, max(means(valid[front])[0])

    chosen: dict[tuple[str, str], Front] = {}
    for front in valid:
        key = front.ranker, front.method.name
        if key not in chosen or merit(front) > merit(chosen[key]):
            chosen[key] = front
    return list(chosen.values())


def advise(valid: Values, loop: Front) -> float:
    """Return the weight with the highest validation alpha-NDCG@10 that keeps KEPT of NDCG@10."""
    level = compared_level(valid)
    points = zip(*means(valid[loop]), loop.method.weights, strict=True)
    return max((alpha, weight) for ndcg, alpha, weight in points if ndcg >= level)[1]


def difference_at_equal_ndcg(one: Array, front: Array, metric: int = ALPHA_NDCG) -> Array | None:
    """Return differences in a metric per list, [S, R], of a point and a front at its NDCG@10.

    The mean is the difference to the height of the front. Subtracted from each list's difference
    is the slope of the front times that list's difference in NDCG@10: in a resample of lists, where
    the two NDCG@10 differ, the point of the front would move by as much, to first order. So an
    interval covers the uncertainty of the matching. None if the front does not reach the NDCG@10.

    Args:
        one: metrics [S, M, R] of the point.
        front: metrics [S, W, M, R].
        metric: number of the metric.
    """
    ndcg, heights = means(front, metric)
    point = highest_point(ndcg, heights, float(one[:, NDCG].mean(dtype=np.float64)))
    if point is None:
        return None
    mixed, slope = front[:, point.left].astype(np.float64), 0.0
    if point.share:
        mixed = (1.0 - point.share) * mixed + point.share * front[:, point.left + 1]
        change = heights[point.left + 1] - heights[point.left]
        slope = change / (ndcg[point.left + 1] - ndcg[point.left])
    difference = one - mixed
    return np.asarray(difference[:, metric] - slope * difference[:, NDCG])


def compare(name: str, advised: Array, plain: Array, test: Values) -> list[dict[str, Any]]:
    """Return differences of the loop and each other front, and of their plain slates.

    Args:
        name: data set and attribute.
        advised: metrics [S, M, R] of the loop at the advised weight.
        plain: metrics [S, M, R] of the generator without diversity.
        test: the chosen fronts.
    """
    level = float(advised[:, NDCG].mean(dtype=np.float64))
    entries = []
    for front, values in test.items():
        if front.method is LOOP:
            continue
        entry: dict[str, Any] = {
            "dataset": name,
            "method": front.method.name,
            "scores": front.ranker,
            "height": finite(height(values, level)),
        }
        for number, metric in enumerate(METRICS):
            if number != NDCG:
                difference = difference_at_equal_ndcg(advised, values, number)
                entry[metric] = None if difference is None else rounded(difference, DIGITS)
        if front.method is BONUS:
            start = values[:, BONUS.weights.index(0.0)]
            entry["plain"] = rounded((plain - start)[:, ALPHA_NDCG], DIGITS)
        entries.append(entry)
    return entries


def summarise(name: str, valid: Values, test: Values) -> dict[str, Any]:
    """Return rows, parameters, comparisons and advice of one data set and attribute.

    Args:
        name: data set and attribute.
        valid: every front.
        test: the fronts that `choose` returns.
    """
    loop = next(front for front in test if front.method is LOOP)
    weight = advise(valid, loop)
    number = LOOP.weights.index(weight)
    advised, plain = test[loop][:, number], test[loop][:, LOOP.weights.index(0.0)]
    level = compared_level(valid)
    return {
        "rows": [row for front in test for row in rows_of(name, front, test[front])],
        "parameters": [
            {
                "dataset": name,
                "method": front.method.name,
                "scores": front.ranker,
                "parameters": front.label,
                "chosen": front in test,
                "validation alpha-ndcg@10": finite(height(values, level)),
            }
            for front, values in valid.items()
        ],
        "comparisons": compare(name, advised, plain, test),
        "advice": {
            "dataset": name,
            **loop.options,
            "weight": weight,
            "seeds": len(advised),
            "lists": advised.shape[2],
            "validation lists": valid[loop].shape[3],
            **{
                state: {m: rounded(of_state[:, i], DIGITS) for i, m in enumerate(METRICS)}
                for state, of_state in (("plain", plain), ("advised", advised))
            },
            "change": {m: rounded((advised - plain)[:, i], DIGITS) for i, m in enumerate(METRICS)},
        },
    }


def finite(value: float | None) -> float | None:
    """Return the value rounded, or None."""
    return None if value is None else round(value, DIGITS)


def rows_of(name: str, front: Front, values: Array) -> list[dict[str, Any]]:
    """Return test figures [S, W, M, R] of a front: a row for each weight and metric.

    Weight 0 is the plain sort, which the front of the law of the loop has for all methods.
    """
    rows = []
    for number, weight in enumerate(front.method.weights):
        if not weight and front.method not in (LOOP, BONUS):
            continue
        for index, metric in enumerate(METRICS):
            mean, low, high = rounded(values[:, number, index], DIGITS)
            rows.append(
                {
                    "dataset": name,
                    "method": front.method.name if weight else PLAIN,
                    "scores": front.ranker,
                    "parameters": front.label if weight else "",
                    "weight": weight,
                    "metric": metric,
                    "mean": mean,
                    "low": low,
                    "high": high,
                }
            )
    return rows
