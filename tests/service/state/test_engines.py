"""The contract of all engines, over LMDB, Redis, Valkey and a cluster."""

import threading

import pytest

from service.state.engine import MAX_ID_BYTES, Key, Value, now_ms
from service.state.errors import EntityError
from tests.support.redis_servers import SERVERS

pytestmark = pytest.mark.parametrize("address", ["lmdb", *SERVERS], indirect=True)
USER, ITEM = Key("user", "u1"), Key("item", "u1")
ODD_IDS = [
    "a b",
    "{u1}",
    "}",
    "ключ",
    "a:b",
    "\n",
    "*",
    "x" * MAX_ID_BYTES,
    "é" * (MAX_ID_BYTES // 2),
]


def entities(engine, kind):
    return dict(entry for batch in engine.scan(kind) for entry in batch)


def test_an_entity_is_read_as_it_was_written(engine):
    blob = bytes(range(256))
    engine.put_many([(USER, Value(blob)), (ITEM, Value(b""))])
    assert engine.get_many([ITEM, USER, Key("user", "u2"), USER]) == [b"", blob, None, blob]
    assert engine.get_many([]) == []


def test_of_two_entries_of_one_key_the_later_one_stays(engine):
    engine.put_many([(USER, Value(b"1")), (USER, Value(b"2"))])
    assert engine.get_many([USER]) == [b"2"]


@pytest.mark.parametrize("item", ODD_IDS)
def test_any_text_may_be_an_id(engine, item):
    keys = [Key("user", item), Key("item", item)]
    engine.put_many([(key, Value(key.kind.encode())) for key in keys])
    assert engine.get_many(keys) == [b"user", b"item"]
    assert list(entities(engine, "item")) == [item]
    assert engine.delete(keys) == 2


@pytest.mark.parametrize("item", ["", "x" * (MAX_ID_BYTES + 1), "\ud800"])
def test_an_id_that_no_engine_can_keep_is_refused(engine, item):
    key = Key("user", item)
    for call in (
        lambda: engine.get_many([key]),
        lambda: engine.put_many([(key, Value(b""))]),
        lambda: engine.update_many([key], lambda place, blob: None),
        lambda: engine.delete([key]),
    ):
        with pytest.raises(EntityError, match="user id: text of 1 to 480 bytes"):
            call()


def test_a_deleted_entity_is_absent_and_counted_once(engine):
    engine.put_many([(USER, Value(b"1")), (ITEM, Value(b"2"))])
    assert engine.delete([USER, USER, Key("user", "u2")]) == 1
    assert engine.get_many([USER, ITEM]) == [None, b"2"]


def test_an_expired_entity_is_absent(engine):
    engine.put_many(
        [
            (USER, Value(b"1", expires_at=now_ms() - 1000)),
            (ITEM, Value(b"2", expires_at=now_ms() + 60_000)),
        ]
    )
    assert engine.get_many([USER, ITEM]) == [None, b"2"]
    assert entities(engine, "user") == {}


def test_a_write_without_expiry_ends_that_of_the_value_before(engine):
    engine.put_many([(USER, Value(b"1", expires_at=now_ms() + 60_000))])
    ((_, value),) = entities(engine, "user").items()
    assert 50_000 < value.expires_at - now_ms() <= 60_000
    engine.put_many([(USER, Value(b"2"))])
    assert entities(engine, "user") == {"u1": Value(b"2")}


def test_a_scan_yields_every_entity_of_its_kind(engine):
    expected = {f"u{number}": Value(b"%d" % number) for number in range(2500)}
    engine.put_many([(Key("user", item), value) for item, value in expected.items()])
    engine.put_many([(ITEM, Value(b"other"))])
    batches = list(engine.scan("user"))
    assert {item: value for batch in batches for item, value in batch} == expected
    assert max(map(len, batches)) <= 1000


def test_an_update_sees_the_writes_before_it_also_of_its_own_call(engine):
    engine.put_many([(USER, Value(b"a"))])

    def append(place, blob):
        return Value((blob or b"") + b"%d" % place)

    engine.update_many([USER, ITEM, USER], append)
    assert engine.get_many([USER, ITEM]) == [b"a02", b"1"]


def test_an_update_may_leave_an_entity_as_it_is(engine):
    engine.put_many([(USER, Value(b"a"))])
    engine.update_many([USER, ITEM], lambda place, blob: None)
    assert engine.get_many([USER, ITEM]) == [b"a", None]


def test_concurrent_updates_of_one_entity_lose_nothing(engine):
    rounds, writers, failures = 15, 4, []

    def count(place, blob):
        return Value(b"%d" % (int(blob or 0) + 1))

    def write():
        try:
            for _ in range(rounds):
                engine.update_many([USER, ITEM], count)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert engine.get_many([USER, ITEM]) == [b"%d" % (rounds * writers)] * 2


def test_reading_and_then_writing_loses_updates(engine):
    """The twin of the test above: without an atomic update, counts are lost."""
    blobs = [engine.get_many([USER])[0] for _ in range(2)]
    for blob in blobs:
        engine.put_many([(USER, Value(b"%d" % (int(blob or 0) + 1)))])
    assert engine.get_many([USER]) == [b"1"]


def test_an_error_of_a_change_reaches_the_caller(engine):
    with pytest.raises(ZeroDivisionError):
        engine.update_many([USER], lambda place, blob: 1 // 0)
    assert engine.get_many([USER]) == [None]


def test_the_health_counts_entities_and_bytes(engine):
    engine.put_many([(Key("user", f"u{number}"), Value(b"x")) for number in range(3)])
    health = engine.health()
    assert sum(health.entities.values()) == 3
    assert health.bytes > 0
    assert health.lag_s == 0


def test_entities_outlive_a_compaction(engine):
    engine.put_many([(USER, Value(b"1")), (ITEM, Value(b"2", expires_at=now_ms() + 60_000))])
    engine.compact()
    assert engine.get_many([USER, ITEM]) == [b"1", b"2"]
    assert entities(engine, "item")["u1"].expires_at is not None
