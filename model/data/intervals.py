"""95 % intervals of a mean over lists, in memory and time that do not grow without bound.

Up to `NORMAL_FROM` lists the interval is that of a bootstrap. With more lists the mean of a
resample is taken as normal: given the lists, its mean and variance are the sample's mean and the
sample's variance / R, and by the Berry-Esseen bound its distribution differs from the normal one by
at most 0.4748 * E|x - mean|^3 / (deviation^3 * sqrt(R)) (Shevtsova, arXiv 1111.6554). Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 13, compare both intervals.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Interval = tuple[float, float | None, float | None]  # mean, low, high; None = too few lists

FEWEST = 30  # lists; an interval over fewer would only look like one
NORMAL_FROM = 10_000  # lists; 2,000 bootstrap resamples of them take two seconds
RESAMPLES_AT_ONCE = 100
TOO_FEW = "too few to tell"


def interval(values: Array, resamples: int = 2000, seed: int = 0) -> Interval:
    """Return mean and 95 % interval of values [R] over lists, or [S, R] over seeds too.

    Seeds and lists are resampled together, so the interval covers other trainings as well as other
    lists. With fewer than FEWEST lists both ends are None. Raises ValueError without a list.
    """
    by_seed = np.atleast_2d(values)
    lists = by_seed.shape[1]
    if not lists:
        raise ValueError("values: must have at least one list, got 0")
    mean = float(by_seed.mean(dtype=np.float64))
    if lists < FEWEST:
        return mean, None, None
    means_of_resamples = bootstrap_means if lists < NORMAL_FROM else normal_means
    low, high = np.quantile(means_of_resamples(by_seed, resamples, seed), [0.025, 0.975])
    return mean, float(low), float(high)


def rounded(values: Array, digits: int) -> list[float | None]:
    """Return [mean, low, high] rounded, as a report's JSON has it; null stands for no interval."""
    return [None if end is None else round(end, digits) for end in interval(values)]


def excludes_zero(ends: Sequence[float | None]) -> bool:
    """True if (mean, low, high) has an interval and 0 lies outside of it."""
    _, low, high = ends
    return low is not None and high is not None and not low <= 0.0 <= high


def format_interval(ends: Sequence[float | None], signed: bool = False, digits: int = 4) -> str:
    """Format (mean, low, high) as "mean [low, high]", with signs for a difference.

    A mean over too few lists has no interval, and its text says so.
    """
    form = f"{'+' if signed else ''}.{digits}f"
    mean, low, high = ends
    if low is None or high is None:
        return f"{mean:{form}} ({TOO_FEW})"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def bootstrap_means(by_seed: Array, resamples: int, seed: int) -> Array:
    """Return the mean of each resample of seeds and lists, float [resamples], of values [S, R]."""
    seeds, lists = by_seed.shape
    seed_counts, list_counts = _draw_counts(seeds, lists, resamples, seed)
    means = np.zeros(resamples)
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        block = slice(start, start + RESAMPLES_AT_ONCE)
        of_lists = list_counts[block].astype(np.float64) @ by_seed.T
        means[block] = (of_lists * seed_counts[block]).sum(axis=1)
    return means / (seeds * lists)


def normal_means(by_seed: Array, resamples: int, seed: int) -> Array:
    """Return means of resamples, with the normal law in place of resampling many lists.

    Seeds are resampled as in `bootstrap_means`. The normal values are the quantiles of equal
    shares in random order, so that one seed gives mean +- 1.96 deviations without sampling noise.
    """
    seeds, lists = by_seed.shape
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(seeds, np.full(seeds, 1.0 / seeds), resamples) / seeds
    shares = (np.arange(resamples) + 0.5) / resamples
    normal = draw.permutation([NormalDist().inv_cdf(share) for share in shares])
    means = by_seed.mean(axis=1, dtype=np.float64)
    covariance = np.atleast_2d(np.cov(by_seed, ddof=0))
    variances = np.einsum("bs,st,bt->b", weights, covariance, weights) / lists
    return np.asarray(weights @ means + normal * np.sqrt(np.maximum(variances, 0.0)))


@functools.lru_cache(maxsize=2)
def _draw_counts(seeds: int, lists: int, resamples: int, seed: int) -> tuple[Array, Array]:
    """Return how often each seed and list is drawn, uint16 [resamples, S] and [resamples, R]."""
    draw = np.random.default_rng(seed)
    counts = []
    for size in (lists, seeds):
        share = np.full(size, 1.0 / size)
        blocks = [  # the generator draws row by row, so blocks give the rows of one large draw
            draw.multinomial(size, share, min(RESAMPLES_AT_ONCE, resamples - start))
            for start in range(0, resamples, RESAMPLES_AT_ONCE)
        ]
        counts.append(np.concatenate([block.astype(np.uint16) for block in blocks]))
    return counts[1], counts[0]
