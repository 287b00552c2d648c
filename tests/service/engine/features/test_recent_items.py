"""Items that were read last: handles, stamps, and rows that are found by them."""

import dataclasses

import numpy as np
import pytest

from service.engine.features import recent_items, stored_rows
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.recent_items import RecentItems
from service.engine.features.schema import Schema
from service.engine.features.stored_encoder import ItemEncoder
from service.engine.features.stored_items import StoredItems
from service.engine.features.stored_rows import StoredRows
from service.state.entities import Item

NOW = 1_700_000_000_000
IDS = [f"i{number}" for number in range(40)]


def featuriser_of(ids):
    features = [{"name": "price", "of": "item", "kind": "number", "mean": 4.0, "std": 2.0}]
    schema = Schema.from_dict({"name": "simple", "features": features})
    return Featuriser(schema, ItemTable(ids, np.zeros((len(ids), 1), np.float32),
                      np.zeros((len(ids), 0), np.int64), {}))  # fmt: skip


def read(recent, store, ids):
    """Read a list of items as an engine does, each that is not fresh."""
    handles = recent.find(ids)
    stale = recent.stale(handles)
    recent.put(handles[stale].tolist(), [store.get(ids[place]) for place in stale])
    assert recent.blobs(handles) == [store.get(item) for item in ids]
    return recent.recent(handles)


def stored_items(recent):
    blobs = recent.items.blobs(recent.handles)
    return StoredItems(blobs, Item.from_blob, NOW, recent=recent)


def test_a_stamp_changes_with_the_bytes_of_an_item():
    recent, store = RecentItems(), {"a": b"1", "b": b"2"}
    first = read(recent, store, ["a", "b", "gone"])
    recent.outdate()
    store["b"] = b"3"
    second = read(recent, store, ["b", "a", "gone"])
    assert second.handles.tolist() == first.handles[[1, 0, 2]].tolist()
    assert (second.stamps == first.stamps[[1, 0, 2]]).tolist() == [False, True, True]
    assert len({*first.stamps.tolist(), *second.stamps.tolist()}) == 4


def test_a_fresh_item_is_read_once():
    recent, store = RecentItems(), {"a": b"12", "b": b"345"}
    for _ in range(3):
        read(recent, store, ["a", "b", "gone"])
    assert recent.bytes_read == 5
    recent.outdate(recent.find(["b"]).tolist())
    read(recent, store, ["a", "b", "gone"])
    assert recent.bytes_read == 8


@pytest.mark.parametrize("options", [{"handles": 16}, {"max_bytes": 60}])
def test_the_items_that_are_unused_for_longest_make_room(options):
    recent, store = RecentItems(**options), {item: item.encode() for item in IDS}
    draw = np.random.default_rng(2)
    kept = read(recent, store, IDS[:2])
    for _ in range(100):
        read(recent, store, [*IDS[:2], *draw.choice(IDS[2:], 5, replace=False).tolist()])
        assert len(recent) <= 27
    again = read(recent, store, IDS[:2])
    assert (again.stamps == kept.stamps).all()


def test_an_id_may_be_repeated():
    recent = RecentItems(handles=8)
    handles = recent.find(["a", "b", "a", "c", "a"]).tolist()
    assert handles[0] == handles[2] == handles[4]
    assert (len(recent), len(set(handles))) == (3, 3)
    again = recent.handles_of(["c", "a", "c"])
    assert again is not None
    assert again.tolist() == [handles[3], handles[0], handles[3]]
    assert recent.handles_of(["a", "other"]) is None


def test_users_are_kept_until_entities_are_outdated_or_take_too_much(monkeypatch):
    monkeypatch.setattr(recent_items, "KEPT_USER_BYTES", 10)
    recent = RecentItems()
    recent.keep_users({"u1": b"12345", "u2": b"6"})
    recent.outdate([])
    assert recent.users == {"u1": b"12345", "u2": b"6"}
    recent.keep_users({"u3": b"123456"})
    assert recent.users == {"u3": b"123456"}
    recent.outdate()
    assert recent.users == {}


def test_items_are_outdated_by_id_and_drops_are_counted():
    recent, store = RecentItems(handles=8), dict.fromkeys(IDS, b"1")
    read(recent, store, IDS[:2])
    recent.outdate_ids([IDS[1], "other"])
    assert recent.stale(recent.find(IDS[:2])) == [1]
    assert recent.drops == 0
    read(recent, store, IDS[2:6])
    read(recent, store, IDS[6:10])
    assert recent.drops > 0


def kept_bytes(recent):
    return sum(len(blob or b"") for blob in recent.blobs(np.arange(recent.size)))


def test_items_that_grow_stay_within_the_bytes():
    """Every id is known after the first turn, so only the bytes ask for room."""
    recent, peak = RecentItems(128, max_bytes=1000), 0
    for turn in range(1, 21):
        recent.outdate()
        for item in IDS:
            read(recent, {item: bytes(5 * turn)}, [item])
            peak = max(peak, kept_bytes(recent))
    assert 900 < peak <= 1000 + 5 * turn


@pytest.mark.parametrize("earlier", [0, 30])
def test_large_new_items_stay_within_the_bytes(earlier):
    """earlier: items that are read before; of a few items an eighth is none."""
    recent = RecentItems(128, max_bytes=1000)
    for item in IDS[:earlier]:
        read(recent, {item: b"1"}, [item])
    for number in range(60):
        ids = [f"large {number} {place}" for place in range(4)]
        read(recent, dict.fromkeys(ids, bytes(100)), ids)
        assert kept_bytes(recent) <= 1000 + 4 * 100
    assert len(recent) >= 8


@pytest.mark.parametrize("in_table", [20, 40])
def test_rows_are_those_of_the_bytes_of_each_list(monkeypatch, in_table):
    """Items change, are deleted and make room; lists without handles, and old ones, come between.

    in_table: number of items in the item table.
    """
    monkeypatch.setattr(stored_rows, "LEAST_ROWS", 24)
    draw, featuriser = np.random.default_rng(in_table), featuriser_of(IDS[:in_table])
    rows = StoredRows(featuriser.stored_encoder(), max_bytes=1)
    recent, store = RecentItems(handles=32), {}
    old: list = []
    finds: list = []
    hits, find = 0, ItemEncoder.find

    def counted(self, ids):
        finds.append(ids)
        return find(self, ids)

    monkeypatch.setattr(ItemEncoder, "find", counted)

    def blob_of(price):
        return Item({"price": float(price)}, updated_at=NOW).to_blob()

    def expected(blobs):
        prices = [Item.from_blob(blob).features["price"] for blob in blobs if blob is not None]
        return [(price - 4.0) / 2.0 for price in prices]

    def take(ids, items):
        taken = rows.take(ids, items)
        assert taken.numbers[:, 0].tolist() == expected(items.blobs)
        assert taken.index.tolist() == featuriser.find(ids).tolist()
        assert len(taken.entries) == sum(blob is not None for blob in items.blobs)

    for number in range(600):
        if draw.random() < 0.3:
            for item in draw.choice(IDS, 3, replace=False).tolist():
                store[item] = None if draw.random() < 0.3 else blob_of(draw.integers(0, 9))
            recent.outdate()
        ids = draw.choice(IDS[: 12 if number % 3 else 40], 6, replace=False).tolist()
        items = stored_items(read(recent, store, ids))
        if draw.random() < 0.2:
            items = dataclasses.replace(items, recent=None)
        take(ids, items)
        finds.clear()
        take(ids, items)
        hits += not finds
        old = [*old[-20:], (ids, items)]
        take(*old[draw.integers(len(old))])
    assert hits > 300  # lists that nothing was looked up for


def test_broken_bytes_are_counted_for_every_list():
    featuriser = featuriser_of(IDS)
    recent = read(RecentItems(), {"i0": b"noise", "i1": Item().to_blob()}, ["i0", "i1"])
    for _ in range(3):
        candidates = CandidateList(ids=["i0", "i1"], stored=stored_items(recent))
        assert featuriser.encode(candidates).stored.corrupt == 1
