"""Candidates with stored features: the same arrays and rows as with these features inline."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.contract import NETWORKS
from service.engine.features import kernels, stored_encoder, stored_rows
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.row_featuriser import RowFeaturiser, write_rows
from service.engine.features.schema import Schema
from service.engine.features.stored_encoder import ItemEncoder
from service.engine.features.stored_items import StoredItems
from service.engine.features.stored_rows import StoredRows
from service.state.entities import Counter, Item
from tests.support.random_schemas import (
    ITEMS,
    UNKNOWN,
    random_featuriser,
    random_list,
    random_value,
    random_weights,
)

NOW = 1_700_000_000_000


def random_items(draw, schema):
    """Return stored features by id for some of the items and unknown ids."""
    features = [
        {"name": f.name, "kind": f.kind, "width": f.width}
        for f in schema.features
        if f.of == "item" and f.name != "item_id"
    ]
    return {
        item: {f["name"]: random_value(draw, f) for f in features if draw.random() < 0.6}
        for item in [*ITEMS, UNKNOWN, "x"]
        if draw.random() < 0.8
    }


def with_stored(candidates, items, **fields):
    """Return the list with items of the store, by id."""
    blobs = [
        Item(items[item], updated_at=NOW - 1000, **fields).to_blob() if item in items else None
        for item in candidates.ids
    ]
    return dataclasses.replace(candidates, stored=StoredItems(blobs, Item.from_blob, NOW))


def with_inline(candidates, items):
    """Return the list with the same features inline, under those that it has."""
    stated = candidates.features or [{}] * len(candidates.ids)
    features = []
    for item, record in zip(candidates.ids, stated, strict=True):
        present = {name: value for name, value in record.items() if value is not None}
        features.append({**items.get(item, {}), **present})
    return dataclasses.replace(candidates, features=features)


def arrays_of(featuriser, candidates):
    """Return all arrays of a list that the network can read."""
    arrays = [*featuriser.transform(candidates)]
    if isinstance(featuriser, RowFeaturiser):
        encoded = featuriser.encode(candidates)
        arrays += [encoded.numbers[:, : featuriser.request_width], featuriser.tokens(encoded)]
        arrays += [featuriser.rows(encoded, network) for network in NETWORKS]
    return arrays


def assert_equal(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


@pytest.fixture
def unlimited(monkeypatch):
    """Clip nothing, as inline values are not clipped."""
    monkeypatch.setattr(stored_encoder, "RANGE", 1e6)


@pytest.mark.usefixtures("unlimited")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_stored_features_give_the_arrays_of_inline_ones_in_every_bit(
    tmp_path_factory, seed, inline
):
    draw = np.random.default_rng(seed)
    plain = random_featuriser(draw)
    directory = tmp_path_factory.mktemp("rows")
    write_rows(directory, plain, random_weights(draw, plain))
    rows = RowFeaturiser.load(directory)
    items = random_items(draw, plain.schema)
    for _ in range(4):
        candidates = random_list(draw, plain.schema, inline)
        if draw.random() < 0.5:
            items |= random_items(draw, plain.schema)
        for featuriser in (plain, rows):
            stored = arrays_of(featuriser, with_stored(candidates, items))
            assert_equal(stored, arrays_of(featuriser, with_inline(candidates, items)))


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("small", [0, 64])
def test_kernels_with_columns_of_the_history_read_stored_values_too(monkeypatch, small):
    monkeypatch.setattr(kernels, "SMALL", small)
    draw, differences = np.random.default_rng(11), 0
    for _ in range(40):
        plain = random_featuriser(draw)
        items = random_items(draw, plain.schema)
        candidates = random_list(draw, plain.schema, inline=False)
        stored = arrays_of(plain, with_stored(candidates, items))
        assert_equal(stored, arrays_of(plain, with_inline(candidates, items)))
        differences += not np.array_equal(stored[0], plain.transform(candidates)[0])
    assert differences > 10


@pytest.mark.usefixtures("unlimited")
def test_one_other_stored_value_gives_other_arrays(tmp_path):
    draw = np.random.default_rng(4)
    plain = random_featuriser(draw)
    write_rows(tmp_path, plain, random_weights(draw, plain))
    rows, differences = RowFeaturiser.load(tmp_path), 0
    for _ in range(20):
        items = random_items(draw, plain.schema)
        candidates = random_list(draw, plain.schema, inline=False)
        stored = arrays_of(rows, with_stored(candidates, items))
        changed = {item: random_items(draw, plain.schema).get(item, {}) for item in items}
        inline = arrays_of(rows, with_inline(candidates, changed))
        pairs = zip(stored, inline, strict=True)
        differences += not all(np.array_equal(one, other) for one, other in pairs)
    assert differences > 10


def simple():
    """Return a featuriser of one number and one category, and the list of ten of its items."""
    features = [
        {"name": "price", "of": "item", "kind": "number", "mean": 4.0, "std": 2.0},
        {"name": "brand", "of": "item", "kind": "category", "vocabulary": ["a", "b"]},
        {"name": "age", "of": "user", "kind": "number"},
    ]
    schema = Schema.from_dict({"name": "simple", "features": features})
    ids = tuple(f"i{number}" for number in range(10))
    table = ItemTable(ids, np.zeros((10, 1), np.float32), np.zeros((10, 1), np.int64), {})
    return Featuriser(schema, table), CandidateList(ids=ids)


def test_a_stored_value_that_the_schema_does_not_allow_is_ignored_alone():
    featuriser, candidates = simple()
    items = {
        "i0": {"price": 8.0, "brand": "b"},
        "i1": {"price": "much", "brand": "b"},
        "i2": {"price": True, "brand": ["b"], "age": 3},
        "i3": {"price": float("1e30"), "nosuch": 1, "brand": None},
    }
    encoded = featuriser.encode(with_stored(candidates, items))
    assert encoded.numbers[:5, 0].tolist() == [2.0, 0.0, 0.0, 0.0, 0.0]
    assert encoded.tokens[:5, 0].tolist() == [3, 3, 0, 0, 0]
    stored = encoded.stored
    assert stored.feature_names() == ["price", "brand"]
    assert stored.ignored_names() == ["age", "brand", "nosuch", "price"]
    assert stored.ignored == 6
    assert (len(stored.entries), stored.corrupt) == (4, 0)


def test_a_number_beyond_the_range_of_training_is_clipped_and_counted():
    featuriser, candidates = simple()
    items = {"i0": {"price": 4.0 + 2.0 * 5.0}, "i1": {"price": 15.0}, "i2": {"price": -90.0}}
    encoded = featuriser.encode(with_stored(candidates, items))
    assert encoded.numbers[:3, 0].tolist() == [5.0, 5.0, -5.0]
    assert encoded.stored.clipped == 2


def test_a_number_that_the_item_table_has_is_within_the_range():
    featuriser, candidates = simple()
    featuriser.items.numbers[7] = 6.5
    items = {"i0": {"price": 4.0 + 2.0 * 6.5}, "i1": {"price": 4.0 + 2.0 * 6.6}}
    encoded = featuriser.encode(with_stored(candidates, items))
    assert encoded.numbers[:2, 0].tolist() == [6.5, 6.5]
    assert encoded.stored.clipped == 1


def test_bytes_that_no_store_has_written_leave_the_values_of_the_table():
    featuriser, candidates = simple()
    good = with_stored(candidates, {"i4": {"price": 8.0}})
    blobs = [b"noise", *good.stored.blobs[1:]]
    broken = dataclasses.replace(good, stored=dataclasses.replace(good.stored, blobs=blobs))
    encoded = featuriser.encode(broken)
    assert encoded.numbers[:5, 0].tolist() == [0.0, 0.0, 0.0, 0.0, 2.0]
    assert (len(encoded.stored.entries), encoded.stored.corrupt) == (1, 1)
    # An item whose bytes break after it was kept is not served as it was.
    blobs = [b"noise"] * 10
    encoded = featuriser.encode(
        dataclasses.replace(broken, stored=StoredItems(blobs, Item.from_blob, NOW))
    )
    assert not encoded.numbers.any()
    assert encoded.stored.corrupt == 10


def test_the_age_is_that_of_the_oldest_and_of_the_latest_change():
    featuriser, candidates = simple()
    blobs = [Item(updated_at=NOW - 1000 * age).to_blob() for age in (40, 7, 90)] + [None] * 7
    items = StoredItems(blobs, Item.from_blob, NOW)
    stored = featuriser.encode(dataclasses.replace(candidates, stored=items)).stored
    assert stored.ages_s() == (90.0, 7.0)
    empty = featuriser.encode(with_stored(candidates, {})).stored
    assert empty.ages_s() is None


@pytest.fixture
def encoded_items(monkeypatch):
    """The ids of all items that were encoded since."""
    encoded, encode = [], ItemEncoder.encode

    def spy(self, ids, items):
        encoded.extend(ids)
        return encode(self, ids, items)

    monkeypatch.setattr(ItemEncoder, "encode", spy)
    return encoded


def test_an_item_is_encoded_once_per_change_of_its_features(encoded_items):
    featuriser, candidates = simple()
    items = {f"i{number}": {"price": float(number)} for number in range(6)}
    for _ in range(3):
        featuriser.encode(with_stored(candidates, items))
    assert encoded_items == list(items)
    items["i3"] = {"price": 3}  # equal, but of another type
    items["i5"] = {"price": 8.0}
    numbers = featuriser.encode(with_stored(candidates, items)).numbers
    assert encoded_items == [*items, "i3", "i5"]
    assert numbers[5, 0] == 2.0


def test_a_change_of_counters_alone_encodes_nothing_again(encoded_items):
    featuriser, candidates = simple()
    items = {"i1": {"price": 8.0}}
    for shows in (3.0, 4.0):
        moved = with_stored(candidates, items, counters={"rate": Counter(shows, 1.0, NOW)})
        assert featuriser.encode(moved).numbers[1, 0] == 2.0
    assert encoded_items == ["i1"]


def test_the_least_recently_used_rows_make_room(monkeypatch, encoded_items):
    monkeypatch.setattr(stored_rows, "LEAST_ROWS", 32)
    featuriser, _ = simple()
    rows = StoredRows(featuriser.stored_encoder(), max_bytes=1)
    items = {f"x{number}": {"price": float(number % 9)} for number in range(400)}
    draw, ids = np.random.default_rng(3), list(items)

    def take(listed):
        candidates = with_stored(CandidateList(ids=listed), items)
        taken = rows.take(listed, candidates.stored)
        expected = [(items[item]["price"] - 4.0) / 2.0 for item in listed]
        assert taken.numbers[:, 0].tolist() == expected

    for _ in range(200):
        take([*ids[:3], *draw.choice(ids[3:], 9, replace=False).tolist()])
        assert len(rows) <= 32
    assert encoded_items.count(ids[0]) == 1
    assert encoded_items.count(ids[50]) > 1
    take(ids)  # a list of more items than there is room for
    take(ids[::-1])


def test_large_items_make_room_too(monkeypatch):
    featuriser, _ = simple()
    rows = StoredRows(featuriser.stored_encoder(), max_bytes=100_000)
    items = {f"x{number}": {"price": 1.0, "text": "t" * 10_000} for number in range(100)}
    for item in items:
        stored = with_stored(CandidateList(ids=[item]), items).stored
        rows.take([item], stored)
    assert len(rows) < 30
