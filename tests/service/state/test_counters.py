"""Counters age, grow and begin as training's counts do."""

import math

import numpy as np
import polars as pl
import pytest

from model.data.rates import Clock, count_events, rates_over_time
from service.engine.features.snapshot import Snapshot, StatisticCounts
from service.state.counters import added, decayed, seed
from service.state.entities import Counter

DAY = 86_400_000
EMPTY = Counter(0.0, 0.0, 0)


@pytest.mark.parametrize(("half_life", "weight"), [(DAY, 0.25), (4 * DAY, 2**-0.5), (None, 1.0)])
def test_a_counter_halves_within_each_half_life(half_life, weight):
    aged = decayed(Counter(8.0, 4.0, 5), 5 + 2 * DAY, half_life)
    assert tuple(aged) == pytest.approx((8 * weight, 4 * weight, 5 + 2 * DAY))


def test_a_counter_of_the_future_stays_as_it_is():
    counter = Counter(8.0, 4.0, 5)
    assert decayed(counter, 4, DAY) is counter


def test_a_counter_of_long_ago_fades_to_nothing():
    assert decayed(Counter(8.0, 4.0, 0), 10_000 * DAY, 1) == Counter(0.0, 0.0, 10_000 * DAY)


@pytest.mark.parametrize("half_life", [3 * DAY, None])
def test_events_count_alike_in_any_order(half_life):
    draw = np.random.default_rng(1)
    events = [(1.0, float(draw.random()), int(draw.integers(0, 9 * DAY))) for _ in range(40)]
    counters = []
    for order in (range(40), draw.permutation(40)):
        counter = EMPTY
        for place in order:
            counter = added(counter, *events[place], half_life)
            assert 0 <= counter.likes <= counter.shows
        counters.append(counter)
    assert counters[0] == pytest.approx(counters[1], rel=1e-12)
    assert counters[0].time == max(time for *_, time in events)


@pytest.mark.parametrize("half_life", [3 * DAY, math.inf])
def test_a_counter_equals_the_counts_of_training_for_the_same_buckets(half_life):
    draw, bucket, size = np.random.default_rng(2), DAY // 4, 300
    times = np.sort(draw.integers(0, 20 * DAY, size))
    gains = draw.random(size)
    as_of = int(times[-1])
    rows = pl.LazyFrame({"item_id": ["i1"] * size, "timestamp": times, "gain": gains})
    events = count_events(rows, pl.Series(["i1"]), bucket)
    _, counts = rates_over_time(events, Clock(bucket, half_life, as_of), 10.0)
    counter, life = EMPTY, None if math.isinf(half_life) else half_life
    for time, gain in zip(times.tolist(), gains.tolist(), strict=True):
        end = min((time // bucket + 1) * bucket, as_of)
        counter = added(counter, 1.0, gain, end, life)
    counter = decayed(counter, as_of, life)
    assert counter[:2] == pytest.approx((counts.shows[0], counts.likes[0]), rel=1e-12)
    early = decayed(counter, as_of + DAY, life)[:2]
    assert (early == pytest.approx((counts.shows[0], counts.likes[0]), rel=1e-12)) is (life is None)


def test_a_counter_begins_with_the_counts_of_the_bundle_at_their_moment():
    counts = StatisticCounts(np.array([4.0, 9.0]), np.array([1.0, 3.0]), 13.0, 4.0, DAY, DAY)
    snapshot = Snapshot(77, {"rate": counts})
    assert seed(snapshot, "rate", 1) == Counter(9.0, 3.0, 77)
    assert seed(snapshot, "rate", 2) == Counter(0.0, 0.0, 77)
    assert seed(Snapshot(None, {"rate": counts}), "rate", 0) == Counter(4.0, 1.0, 0)


@pytest.mark.parametrize("snapshot", [None, Snapshot(77, {})])
def test_a_counter_does_not_begin_without_counts_in_the_bundle(snapshot):
    assert seed(snapshot, "rate", 0) is None
