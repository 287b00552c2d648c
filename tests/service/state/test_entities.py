"""Blobs of users and items, and blobs that no store has written."""

import json
import random
import struct

import ormsgpack
import pytest

from service.engine.features.schema import Schema
from service.state.entities import (
    VERSION,
    Answers,
    Counter,
    Item,
    User,
    entity_to_change,
    fingerprint_of,
)
from service.state.errors import EntityError, NewerEntity, StateNewer

ANSWERS = Answers(["i1", "ключ"], [1.0, 0.25], ["like", None], [1_700_000_000_000, None])
USER = User({"age": 31, "tags": ["a", "b"]}, ANSWERS, 1_700_000_000_001, b"\1" * 8)
ITEM = Item({"price": 2.5}, {"like_rate": Counter(3.5, 1.25, 7)}, 5, b"\2" * 8)


def test_a_user_is_read_as_it_was_written():
    user = User.from_blob(USER.to_blob())
    assert user.features == USER.features
    assert (list(user.answers.items), list(user.answers.labels)) == (ANSWERS.items, ANSWERS.labels)
    assert (list(user.answers.types), list(user.answers.times)) == (ANSWERS.types, ANSWERS.times)
    assert (user.updated_at, user.fingerprint) == (USER.updated_at, USER.fingerprint)


def test_the_blob_of_a_user_is_one_map_of_message_pack():
    blob = USER.to_blob()
    fields = ormsgpack.unpackb(blob)
    assert list(fields) == ["v", "s", "u", "f", "h"]
    assert ormsgpack.packb(fields) == blob
    assert ormsgpack.packb({**fields, "u": 0}) != blob


def test_an_item_is_read_as_it_was_written():
    assert Item.from_blob(ITEM.to_blob()) == ITEM


def test_the_last_answers_are_kept():
    kept = ANSWERS.last(1)
    assert (kept.items, kept.labels, kept.types, kept.times) == (["ключ"], [0.25], [None], [None])
    assert ANSWERS.last(2) is ANSWERS


def test_a_user_of_128_answers_takes_few_bytes():
    answers = Answers([f"i{number:06}" for number in range(128)], [1.0] * 128, ["like"] * 128,
                      [1_700_000_000_000] * 128)  # fmt: skip
    assert len(User({}, answers).to_blob()) < 128 * (8 + 4 + 1 + 8) + 100


def test_more_types_than_an_index_has_are_refused():
    answers = Answers(["i"] * 256, [1.0] * 256, [str(n) for n in range(256)], [None] * 256)
    with pytest.raises(EntityError, match="at most 255 distinct types"):
        User({}, answers).to_blob()


def blob_of(entity, **changes):
    return ormsgpack.packb({**ormsgpack.unpackb(entity.to_blob()), **changes})


ONE = [["i1"], struct.pack("<f", 1.0), [], b"\xff", struct.pack("<q", -1)]


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        ormsgpack.packb([1, 2]),
        ormsgpack.packb({}),
        b"\x91" * 100_000,
        USER.to_blob()[:-1],
        blob_of(USER, v=0),
        blob_of(USER, v="2"),
        blob_of(USER, f=[1]),
        blob_of(USER, u="now"),
        blob_of(USER, u=-1),
        blob_of(USER, u=1 << 63),
        blob_of(USER, s=1),
        blob_of(USER, h=None),
        blob_of(USER, h=[*ONE[:4], b""]),
        blob_of(USER, h=[*ONE[:3], b"\xff\xff", ONE[4]]),
        blob_of(USER, h=[[1], *ONE[1:]]),
        blob_of(USER, h=[ONE[0], struct.pack("<f", 1.5), *ONE[2:]]),
        blob_of(USER, h=[ONE[0], struct.pack("<f", float("nan")), *ONE[2:]]),
        blob_of(USER, h=[*ONE[:3], b"\0", ONE[4]]),
        blob_of(USER, h=[*ONE[:2], [1], *ONE[3:]]),
    ],
)
def test_a_blob_that_no_store_has_written_is_refused(blob):
    with pytest.raises(EntityError, match="written by this store"):
        User.from_blob(blob)


@pytest.mark.parametrize(("kind", "entity"), [(User, USER), (Item, ITEM)])
def test_an_entity_of_a_later_version_is_no_noise_that_a_change_may_replace(kind, entity):
    later = blob_of(entity, v=VERSION + 1)
    with pytest.raises(NewerEntity, match="at most version 1, got 2"):
        kind.from_blob(later)
    with pytest.raises(StateNewer, match="by a later version of the service"):
        entity_to_change(kind, later)
    assert entity_to_change(kind, blob_of(entity, v=VERSION)).features == entity.features
    assert entity_to_change(kind, b"noise") == entity_to_change(kind, None) == kind()


@pytest.mark.parametrize(
    "counters",
    [None, {"r": 1}, {"r": [1.0, 2.0, 0]}, {"r": [-1.0, -1.0, 0]}, {"r": [1.0, 0.0, 0.5]},
     {"r": [float("nan"), 0.0, 0]}, {"r": [float("inf"), 0.0, 0]}],
)  # fmt: skip
def test_a_counter_that_no_events_make_is_refused(counters):
    with pytest.raises(EntityError, match="written by this store"):
        Item.from_blob(blob_of(ITEM, c=counters))


def test_no_damage_of_a_blob_raises_anything_but_an_entity_error():
    generator, blob = random.Random(1), USER.to_blob()
    refused = 0
    for _ in range(2000):
        damaged = bytearray(blob)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            User.from_blob(bytes(damaged))
        except EntityError:
            refused += 1
    assert refused > 500


def test_the_fingerprint_changes_with_the_features_and_not_with_training():
    feature = {"name": "price", "of": "item", "kind": "number"}
    base = Schema.from_dict({"name": "a", "features": [feature]})
    trained = Schema.from_dict({"name": "a", "features": [{**feature, "mean": 3.0, "std": 2.0}]})
    other = Schema.from_dict({"name": "a", "features": [{**feature, "name": "cost"}]})
    assert fingerprint_of(base) == fingerprint_of(trained)
    assert fingerprint_of(base) != fingerprint_of(other)
    assert len(fingerprint_of(base)) == 8
    assert json.dumps(fingerprint_of(base).hex())
