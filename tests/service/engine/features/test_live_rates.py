"""Statistics from live counters: training's values for equal counts, and clipped beyond them."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest

from model.data.fitting import encode_items
from model.data.rates import Clock, count_events, rates_over_time
from service.engine.contract import NETWORKS
from service.engine.features import stored_encoder
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser
from service.engine.features.layout import Layout
from service.engine.features.live_rates import LiveRates
from service.engine.features.rates import log_odds, prior_rate
from service.engine.features.row_featuriser import RowFeaturiser, write_rows
from service.engine.features.schema import Feature, Schema
from service.engine.features.snapshot import Snapshot, StatisticCounts
from service.engine.features.stored_items import StoredItems
from service.state.counters import decayed
from service.state.entities import Counter, Item
from tests.support.random_schemas import random_weights

DAY = 86_400_000
STRENGTH = 7.0
ITEMS = [f"i{number}" for number in range(40)]


def schema_of(half_life):
    features = [
        {"name": "price", "of": "item", "kind": "number", "mean": 3.0, "std": 2.0},
        {
            "name": "rate", "of": "item", "kind": "statistic", "relative": True, "mean": -1.3,
            "std": 0.4, "prior_strength": STRENGTH, "default": -1.2, "half_life": half_life,
        },
    ]  # fmt: skip
    return Schema.from_dict({"name": "live", "features": features})


def trained(half_life, statistics=("rate",)):
    """Return a featuriser whose table has the rates of a random log, and the log's counts."""
    draw, size = np.random.default_rng(5), 4000
    rows = pl.LazyFrame(
        {
            "item_id": draw.choice(ITEMS[:-2], size).tolist(),
            "timestamp": np.sort(draw.integers(0, 30 * DAY, size)),
            "gain": (draw.random(size) < 0.3).astype(float),
        }
    )
    as_of = int(rows.select(pl.col("timestamp").max()).collect().item())
    schema = schema_of(half_life)
    clock = Clock.of(schema.features[1], 0, as_of)
    events = count_events(rows, pl.Series(ITEMS), clock.bucket)
    _, counts = rates_over_time(events, clock, STRENGTH)
    prior = prior_rate(counts.all_likes, counts.all_shows)
    rates = log_odds(counts.likes, counts.shows, prior, STRENGTH)
    table = pl.DataFrame({"item_id": ITEMS, "price": [3.0] * len(ITEMS), "rate": rates})
    snapshot = Snapshot(as_of, dict.fromkeys(statistics, counts))
    return Featuriser(schema, encode_items(Layout(schema), table), snapshot), counts, as_of


def rates_of(featuriser, ids, counters, now, **options):
    """Return the columns of the statistic of a list whose items have counters."""
    blobs = [
        Item(counters={"rate": counters[item]}).to_blob() if item in counters else None
        for item in ids
    ]
    stored = StoredItems(blobs, Item.from_blob, now, **options)
    encoded = featuriser.encode(CandidateList(ids=ids, stored=stored))
    start = featuriser.column("rate")
    return encoded.numbers[:, start : start + 4], encoded.stored


@pytest.mark.parametrize("half_life", ["5d", None])
def test_equal_counts_have_the_values_of_the_item_table_in_every_bit(half_life):
    featuriser, counts, as_of = trained(half_life)
    counters = {
        item: Counter(float(shows), float(likes), as_of)
        for item, shows, likes in zip(ITEMS, counts.shows, counts.likes, strict=True)
    }
    expected, _ = rates_of(featuriser, ITEMS, {}, as_of)
    live, stored = rates_of(featuriser, ITEMS, counters, as_of)
    np.testing.assert_array_equal(live, expected, strict=True)
    assert (stored.statistics, stored.clipped) == (["rate"], 0)
    more = {
        item: c._replace(likes=c.likes + 1e-4, shows=c.shows + 1e-4) for item, c in counters.items()
    }
    assert (rates_of(featuriser, ITEMS, more, as_of)[0][:, 0] != expected[:, 0]).all()


def test_a_counter_decays_to_the_time_of_the_list():
    featuriser, _, as_of = trained("5d")
    counters = {item: Counter(50.0 + place, 20.0, as_of) for place, item in enumerate(ITEMS)}
    later = as_of + 9 * DAY
    aged = {item: decayed(counter, later, 5 * DAY) for item, counter in counters.items()}
    live, _ = rates_of(featuriser, ITEMS, counters, later)
    np.testing.assert_allclose(live, rates_of(featuriser, ITEMS, aged, later)[0], rtol=1e-6)
    fresh, _ = rates_of(featuriser, ITEMS, counters, as_of)
    assert not np.allclose(live, fresh, rtol=1e-3)
    before, _ = rates_of(featuriser, ITEMS, counters, as_of - DAY)
    np.testing.assert_array_equal(before, fresh)


def test_rows_of_networks_are_those_of_the_same_rate_inline_in_every_bit(tmp_path):
    plain, counts, as_of = trained("5d")
    write_rows(tmp_path, plain, random_weights(np.random.default_rng(8), plain))
    plain.snapshot.save(tmp_path)
    rows = RowFeaturiser.load(tmp_path)
    prior = prior_rate(counts.all_likes, counts.all_shows)
    ids = [*ITEMS[:9], "new"]
    counters = {item: Counter(40.0 + place, 9.0, as_of) for place, item in enumerate(ids[2:])}
    rates = [
        {"price": 5.0, "rate": float(log_odds(c.likes, c.shows, prior, STRENGTH))}
        for c in counters.values()
    ]
    blobs = [Item({"price": 5.0}, {"rate": c}).to_blob() for c in counters.values()]
    stored = StoredItems([None, None, *blobs], Item.from_blob, as_of)
    by_id = rows.encode(CandidateList(ids=ids, stored=stored))
    inline = rows.encode(CandidateList(ids=ids, features=[{}, {}, *rates]))
    frozen = dataclasses.replace(stored, live=False)
    without = rows.encode(CandidateList(ids=ids, stored=frozen))
    for network in NETWORKS:
        np.testing.assert_array_equal(rows.rows(by_id, network), rows.rows(inline, network))
        assert not np.array_equal(rows.rows(without, network), rows.rows(inline, network))


def test_counters_of_some_items_leave_the_others_as_they_are():
    featuriser, _, as_of = trained("5d")
    ids = ["i3", "new", "i4", "other"]
    counters = {"new": Counter(30.0, 12.0, as_of), "i4": Counter(9.0, 0.0, as_of)}
    live, stored = rates_of(featuriser, ids, counters, as_of)
    table, _ = rates_of(featuriser, ids, {}, as_of)
    changed = (live[:, 0] != table[:, 0]).tolist()
    assert changed == [False, True, True, False]
    assert len(stored.entries) == 2
    assert featuriser.unknown_in(featuriser.encode(CandidateList(ids=ids))) == 2


@pytest.mark.parametrize("statistics", [(), ("rate",)])
def test_counters_count_only_if_they_are_live_and_the_bundle_has_counts(statistics):
    featuriser, _, as_of = trained("5d", statistics)
    counters = {"i1": Counter(90.0, 80.0, as_of)}
    table, _ = rates_of(featuriser, ["i1"], {}, as_of)
    live, stored = rates_of(featuriser, ["i1"], counters, as_of)
    assert (live.tolist() == table.tolist()) is (not statistics)
    assert tuple(stored.statistics) == statistics
    off, stored = rates_of(featuriser, ["i1"], counters, as_of, live=False)
    assert (off.tolist(), tuple(stored.statistics)) == (table.tolist(), ())


def test_a_counter_takes_precedence_over_a_stored_value():
    featuriser, _, as_of = trained("5d")
    counter = Counter(30.0, 12.0, as_of)
    both = Item({"rate": 0.5}, {"rate": counter}).to_blob()
    value = Item({"rate": 0.5}).to_blob()

    def first(blob, **options):
        stored = StoredItems([blob], Item.from_blob, as_of, **options)
        encoded = featuriser.encode(CandidateList(ids=["i1"], stored=stored))
        return encoded.numbers[0, featuriser.column("rate")]

    assert first(both) == rates_of(featuriser, ["i1"], {"i1": counter}, as_of)[0][0, 0]
    assert first(both, live=False) == first(value) == np.float32((0.5 + 1.3) / 0.4)


def test_a_rate_beyond_the_range_of_training_is_clipped_and_counted():
    featuriser, _, as_of = trained("5d")
    counters = {"i1": Counter(1e9, 1e9, as_of), "i2": Counter(1e9, 0.0, as_of)}
    live, stored = rates_of(featuriser, ["i1", "i2", "i3"], counters, as_of)
    assert live[:2, 0].tolist() == [stored_encoder.RANGE, -stored_encoder.RANGE]
    assert stored.clipped == 2
    within = {"i1": Counter(60.0, 40.0, as_of)}
    assert rates_of(featuriser, ["i1"], within, as_of)[1].clipped == 0


def test_a_rate_farther_than_any_number_may_be_is_clipped_too():
    narrow = Feature("rate", "item", "statistic", std=1e-12)
    counts = StatisticCounts(np.ones(1), np.ones(1), 10.0, 4.0)
    rates = LiveRates([narrow], Snapshot(0, {"rate": counts}), np.array([-5.0]), np.array([7.0]))
    assert rates.names == ["rate"]
    values, clipped = rates.values(
        rates.counts([{"rate": Counter(50.0, 50.0, 0)}, {"rate": Counter(50.0, 0.0, 0)}, {}]), 0
    )
    assert values[:2, 0].tolist() == [7.0, -5.0]
    assert clipped[:, 0].tolist() == [True, True, False]
    assert math.isnan(values[2, 0])
