"""Changes that are made once for each mark, and many changes of one entity, on every engine."""

import threading
import time

import pytest

from service.state.address import parse_address
from service.state.engine import KEEP_EXPIRY, WINDOW_S, Key, Value, now_ms
from service.state.errors import StateFull, StateUnavailable
from service.state.lmdb_engine import LmdbEngine
from service.state.opening import open_engine
from service.state.redis_engine import RedisEngine
from service.state.redis_keys import TAGS, name_of
from tests.support.processes import poll
from tests.support.redis_servers import SERVERS

ENGINES = pytest.mark.parametrize("address", ["lmdb", *SERVERS], indirect=True)
USER, OTHER, ITEM = Key("user", "u1"), Key("user", "u1}x{"), Key("item", "u1!")
MARKS = [bytes([number]) * 16 for number in range(5)]


def append(place, blob):
    return Value((blob or b"") + b"%d" % place)


@ENGINES
def test_a_change_is_made_once_per_mark_and_entity(engine):
    keys, marks = [USER, ITEM, OTHER], [MARKS[0], MARKS[0], MARKS[1]]
    assert engine.update_many(keys, append, marks) == [True, True, True]
    assert engine.update_many(keys, append, marks) == [False, False, False]
    again = engine.update_many([OTHER, USER, OTHER], append, [MARKS[1], MARKS[2], None])
    assert again == [False, True, True]
    assert engine.get_many([USER, ITEM, OTHER]) == [b"01", b"1", b"22"]


@ENGINES
def test_without_marks_a_change_is_made_each_time(engine):
    """The twin of the test above."""
    for _ in range(2):
        assert engine.update_many([USER], append) == [True]
    assert engine.get_many([USER]) == [b"00"]


@ENGINES
def test_a_mark_that_occurs_twice_in_one_call_counts_once(engine):
    keys, marks = [USER, ITEM, USER, ITEM], [MARKS[0]] * 4
    assert engine.update_many(keys, append, marks) == [True, True, False, False]
    assert engine.get_many([USER, ITEM]) == [b"0", b"1"]


@ENGINES
def test_an_event_of_more_items_than_tags_changes_each_of_them_once(engine):
    """Items of one tag share the name of their marks in Redis."""
    keys = [USER, *(Key("item", str(number)) for number in range(TAGS + 1))]
    marks = [MARKS[0]] * len(keys)
    assert engine.update_many(keys, append, marks) == [True] * len(keys)
    assert engine.update_many(keys, append, marks) == [False] * len(keys)
    assert engine.get_many(keys) == [b"%d" % place for place in range(len(keys))]


@pytest.mark.parametrize("address", SERVERS, indirect=True)
def test_the_rest_of_an_event_that_redis_kept_in_part_is_made_later(engine):
    first, second = items_of_one_tag()
    assert engine.update_many([first], append, [MARKS[0]]) == [True]
    assert engine.update_many([first, second], append, [MARKS[0]] * 2) == [False, True]


def items_of_one_tag():
    names = [name_of(Key("item", str(number)), b"p") for number in range(TAGS + 1)]
    tags = [name.split(b"}")[0] for name in names]
    second = next(place for place, tag in enumerate(tags) if tag in tags[:place])
    return Key("item", str(tags.index(tags[second]))), Key("item", str(second))


@ENGINES
def test_a_mark_is_kept_also_by_a_change_that_leaves_the_entity(engine):
    assert engine.update_many([USER], lambda place, blob: None, [MARKS[0]]) == [True]
    assert engine.update_many([USER], append, [MARKS[0]]) == [False]
    assert engine.get_many([USER]) == [None]


@ENGINES
def test_a_failed_call_keeps_neither_changes_nor_marks(engine):
    with pytest.raises(ZeroDivisionError):
        engine.update_many([USER], lambda place, blob: 1 // 0, [MARKS[0]])
    assert engine.update_many([USER], append, [MARKS[0]]) == [True]


@ENGINES
def test_many_changes_of_one_entity_are_made_in_order_in_one_call(engine):
    count = 300
    marks = [b"%016d" % number for number in range(count)]
    made = engine.update_many([USER] * count, append, marks)
    assert made == [True] * count
    assert engine.get_many([USER]) == [b"".join(b"%d" % place for place in range(count))]


@ENGINES
def test_a_change_may_keep_the_expiry_of_the_entity(engine):
    engine.put_many([(USER, Value(b"a", expires_at=now_ms() + 60_000))])
    engine.update_many([USER, ITEM], lambda place, blob: Value(b"b", KEEP_EXPIRY))
    ((_, value),) = next(engine.scan("user"))
    assert value.blob == b"b"
    assert 50_000 < value.expires_at - now_ms() <= 60_000
    assert next(engine.scan("item")) == [("u1!", Value(b"b"))]
    engine.update_many([USER], lambda place, blob: Value(b"c"))
    assert next(engine.scan("user")) == [("u1", Value(b"c"))]


@ENGINES
def test_marks_are_no_entities(engine):
    engine.update_many([USER, OTHER, ITEM], append, MARKS[:3])
    assert sorted(item for batch in engine.scan("user") for item, _ in batch) == ["u1", "u1}x{"]
    assert [item for batch in engine.scan("item") for item, _ in batch] == ["u1!"]
    assert engine.delete([USER, OTHER, ITEM]) == 3


@pytest.mark.parametrize("address", SERVERS, indirect=True)
def test_a_mark_is_forgotten_after_the_window_and_not_before(address):
    engine = open_engine(address, timeout_s=30, window_s=1)
    began = time.monotonic()
    assert engine.update_many([USER], append, [MARKS[0]]) == [True]
    assert poll(lambda: engine.update_many([USER], append, [MARKS[0]]) == [True], 30)
    assert time.monotonic() - began >= 0.99
    engine.close()


@ENGINES
def test_concurrent_writers_of_the_same_marks_make_each_change_once(engine):
    rounds, failures, made = 20, [], []

    def write():
        try:
            for number in range(rounds):
                mark = b"%016d" % number
                made.extend(engine.update_many([USER, ITEM], append, [mark, mark]))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert engine.get_many([USER, ITEM]) == [b"0" * rounds, b"1" * rounds]
    assert sum(made) == 2 * rounds


def marks_in(engine):
    with engine._environment.begin() as transaction:
        return transaction.stat(engine._marks._database)["entries"]


def test_marks_of_lmdb_are_deleted_after_the_window_a_few_at_a_time(tmp_path):
    now = [1_000_000_000]
    engine = LmdbEngine(tmp_path, clock=lambda: now[0], window_s=100)
    count = 400
    marks = [b"%016d" % number for number in range(count)]
    engine.update_many([USER] * count, append, marks)
    assert marks_in(engine) == count
    now[0] += 99_000
    assert engine.update_many([USER], append, marks[-1:]) == [False]
    now[0] += 200_000
    remaining = []
    for number in range(5):
        assert engine.update_many([USER], append, [b"other%011d" % number]) == [True]
        remaining.append(marks_in(engine))
    engine.close()
    assert remaining == [count + 1 - 102, count + 2 - 204, count + 3 - 306, 4, 5]


def test_marks_of_lmdb_outlive_a_compaction_and_a_longer_window(tmp_path):
    engine = LmdbEngine(tmp_path)
    engine.update_many([USER], append, [MARKS[0]])
    engine.compact()
    assert engine.update_many([USER], append, [MARKS[0]]) == [False]
    engine.close()
    engine = LmdbEngine(tmp_path, window_s=10 * WINDOW_S)
    assert engine.update_many([USER], append, [MARKS[0]]) == [False]
    engine.close()


def test_the_marks_of_a_user_in_redis_are_deleted_with_it(servers):
    server = servers("valkey")
    with server.client() as client:
        client.flushall()
        engine = open_engine(parse_address(f"redis://127.0.0.1:{server.port}/0"))
        engine.update_many([USER], append, [MARKS[0]])
        assert client.dbsize() == 2
        engine.delete([USER])
        assert client.keys() == []
        engine.close()


def test_a_full_redis_keeps_a_part_and_the_rest_is_made_later(servers):
    server, count = servers("valkey"), 1500
    keys, marks = [Key("item", str(number)) for number in range(count)], [MARKS[0]] * count

    def lengthen(place, blob):
        return Value((blob or b"") + bytes(20_000))

    with server.client() as client:
        client.flushall()
        engine = open_engine(parse_address(f"redis://127.0.0.1:{server.port}/0"))
        client.config_set("maxmemory", client.info()["used_memory"] + (20 << 20))
        try:
            with pytest.raises(StateFull):
                engine.update_many(keys, lengthen, marks)
        finally:
            client.config_set("maxmemory", 0)
        assert 0 < sum(engine.update_many(keys, lengthen, marks)) < count
        assert set(engine.get_many(keys)) == {bytes(20_000)}
        client.flushall()
        engine.close()


def test_a_lost_answer_of_redis_changes_nothing_twice(servers, monkeypatch):
    server = servers("valkey")
    with server.client() as client:
        client.flushall()
    engine = RedisEngine(parse_address(f"redis://127.0.0.1:{server.port}/0"))
    call_many, calls = engine._call_many, []

    def lose_the_first(commands):
        calls.append(call_many(commands))
        if len(calls) == 1:
            raise StateUnavailable("lost")
        return calls[-1]

    monkeypatch.setattr(engine, "_call_many", lose_the_first)
    with pytest.raises(StateUnavailable):
        engine.update_many([USER, ITEM], append, MARKS[:2])
    assert engine.update_many([USER, ITEM], append, MARKS[:2]) == [False, False]
    assert engine.get_many([USER, ITEM]) == [b"0", b"1"]
    engine.close()
