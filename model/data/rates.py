"""Like rates over time: a row sees the counts of closed time buckets before its own.

A statistic counts the shows and likes of each item in time buckets of a fixed width. The value of a
row is computed from the buckets that ended before its own began, so no label of its list, nor one
that came later, enters it. Counts of buckets add up, and with a half-life they decay by their age.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from service.engine.features.durations import MINUTE, UNITS, to_ms
from service.engine.features.rates import decay, log_odds, prior_rate
from service.engine.features.schema import Feature
from service.engine.features.snapshot import StatisticCounts

Floats = npt.NDArray[np.float64]
# Widths of time buckets in ms from which a schema without `bucket` takes one.
_HOUR = UNITS["h"]
WIDTHS = (
    *(minutes * MINUTE for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12, 24)),
)
BUCKETS = 256  # buckets in the time of the train lists, at least
BUCKETS_PER_HALF_LIFE = 8  # at least


@dataclass(frozen=True)
class Clock:
    """Bucket width, half-life (inf: counts stay) and moment of one statistic, in ms."""

    bucket: int
    half_life: float
    as_of: int

    @classmethod
    def of(cls, feature: Feature, first: int, as_of: int) -> Clock:
        """Return the clock of a statistic over train lists from `first` to `as_of`."""
        half_life = math.inf if feature.half_life is None else to_ms(feature.half_life)
        if feature.bucket is not None:
            return cls(to_ms(feature.bucket), half_life, as_of)
        limit = min((as_of - first) / BUCKETS, half_life / BUCKETS_PER_HALF_LIFE)
        return cls(max(w for w in WIDTHS if w <= max(limit, WIDTHS[0])), half_life, as_of)

    def span(self, bucket: int) -> tuple[int, int]:
        """Return the times at which a bucket begins and ends; the last one ends at the moment."""
        start = bucket * self.bucket
        return start, min(start + self.bucket, self.as_of)

    def decay(self, elapsed: Any) -> Any:
        """Return the weight of a count after `elapsed` ms, a number or float64 [n]."""
        return decay(elapsed, self.half_life)


@dataclass(frozen=True)
class Events:
    """Counts of E pairs of item and bucket, by bucket and then item; items are numbered."""

    items: pl.Series  # the ids, by number
    item: npt.NDArray[np.int64]  # [E]
    bucket: npt.NDArray[np.int64]  # [E]
    shows: Floats  # [E]
    likes: Floats  # [E]


def count_events(rows: pl.LazyFrame, items: pl.Series, width: int) -> Events:
    """Count shows and likes by item and bucket.

    Args:
        rows: item_id str, timestamp i64 in ms, gain 0..1.
        items: ids, those of all rows included.
    """
    numbers = pl.DataFrame({"item_id": items}).with_row_index("__item").lazy()
    counts = (
        rows.with_columns(bucket_of(width).alias("__bucket"))
        .group_by("item_id", "__bucket")
        .agg(shows=pl.len(), likes=pl.col("gain").cast(pl.Float64).sum())
        .join(numbers, on="item_id")
        .select("__item", "__bucket", "shows", "likes")
        .sort("__bucket", "__item")
        .collect(engine="streaming")
    )
    return Events(
        items,
        counts["__item"].cast(pl.Int64).to_numpy(),
        counts["__bucket"].to_numpy(),
        counts["shows"].cast(pl.Float64).to_numpy(),
        counts["likes"].to_numpy(),
    )


def bucket_of(width: int) -> pl.Expr:
    """Return the number of the bucket of a row by its `timestamp`, counted from 1970 UTC."""
    return pl.col("timestamp") // width


class _Counts:
    """Decaying counts of some items: each pair of counts is as of its own time."""

    def __init__(self, size: int, clock: Clock) -> None:
        self.shows, self.likes = np.zeros(size), np.zeros(size)
        self.time = np.zeros(size)
        self._clock = clock

    def at(self, index: Any, time: float) -> tuple[Floats, Floats]:
        """Return the shows and likes of the items `index` as of a time."""
        weight = self._clock.decay(time - self.time[index])
        return self.shows[index] * weight, self.likes[index] * weight

    def add(self, index: Any, time: float, shows: Any, likes: Any) -> None:
        """Add counts whose age starts at `time`."""
        old_shows, old_likes = self.at(index, time)
        self.shows[index], self.likes[index] = old_shows + shows, old_likes + likes
        self.time[index] = time


@dataclass(frozen=True)
class Totals:
    """Counts of all items in each of B buckets, by bucket."""

    bucket: npt.NDArray[np.int64]  # [B]
    shows: Floats  # [B]
    likes: Floats  # [B]

    @classmethod
    def of(cls, events: Events) -> Totals:
        """Return the totals of events that hold all items."""
        runs = [*_runs(events.bucket)]
        return cls(
            np.array([events.bucket[run.start] for run in runs], np.int64),
            np.array([events.shows[run].sum() for run in runs]),
            np.array([events.likes[run].sum() for run in runs]),
        )


def _runs(bucket: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Yield the rows of each bucket."""
    starts = np.flatnonzero(np.diff(bucket, prepend=bucket[:1] - 1)).tolist()
    for first, last in pairwise([*starts, len(bucket)]):
        yield slice(first, last)


def rates_over_time(
    events: Events, clock: Clock, strength: float, totals: Totals | None = None
) -> tuple[Floats, StatisticCounts]:
    """Return the value of each pair from closed buckets before its own, float64 [E], and the end.

        logit((likes + s * p0) / (shows + s)), s = strength, p0 = likes / shows of all items

    The second result holds the counts as of `clock.as_of`, by the numbers of the items.

    Args:
        totals: of all items, if the events hold some of them only.
    """
    values = np.zeros(len(events.item))
    of_item, of_all = _Counts(len(events.items), clock), _Counts(1, clock)
    every = Totals.of(events) if totals is None else totals
    priors = {}
    for bucket, all_shows, all_likes in zip(
        every.bucket.tolist(), every.shows, every.likes, strict=True
    ):
        start, end = clock.span(bucket)
        before_shows, before_likes = of_all.at(slice(None), start)
        priors[bucket] = prior_rate(float(before_likes[0]), float(before_shows[0]))
        of_all.add(slice(None), end, all_shows, all_likes)
    for run in _runs(events.bucket):
        item, bucket = events.item[run], int(events.bucket[run.start])
        start, end = clock.span(bucket)
        shows, likes = of_item.at(item, start)
        values[run] = log_odds(likes, shows, priors[bucket], strength)
        of_item.add(item, end, events.shows[run], events.likes[run])
    everything = np.arange(len(events.items))
    shows, likes = of_item.at(everything, clock.as_of)
    end_shows, end_likes = of_all.at(slice(None), clock.as_of)
    half_life = None if math.isinf(clock.half_life) else int(clock.half_life)
    ends = float(end_shows[0]), float(end_likes[0])
    return values, StatisticCounts(shows, likes, *ends, clock.bucket, half_life)
