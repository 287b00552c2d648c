"""Cluster bootstrap: resample users with all of their lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.offline.estimators import Statistic

Array = np.ndarray[Any, Any]
RESAMPLES = 2000
AT_ONCE = 200  # resamples whose counts are in memory


def resample(statistics: list[Statistic], user: Array, resamples: int, seed: int) -> Array:
    """Return the value of each statistic on each resample of users, float64 [S, resamples].

    All statistics see the same resamples, so differences between them are paired.

    user: int64 [R], number of the user of each list.
    """
    numbers, of_list = np.unique(user, return_inverse=True)
    by_user = []
    for statistic in statistics:
        totals = np.zeros((len(numbers), statistic.sums.shape[1]))
        np.add.at(totals, of_list, statistic.sums)
        by_user.append(totals)
    draw, share = np.random.default_rng(seed), np.full(len(numbers), 1.0 / len(numbers))
    values = np.empty((len(statistics), resamples))
    for start in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - start)
        counts = draw.multinomial(len(numbers), share, count).astype(np.float64)
        for number, (statistic, totals) in enumerate(zip(statistics, by_user, strict=True)):
            values[number, start : start + count] = statistic.combine(counts @ totals)
    return values
