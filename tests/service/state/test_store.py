"""Lookups of a worker: outcomes, budget, failures in a row, recovery, and what is told of them."""

import asyncio
import socket

import pytest

from service.metrics import Metrics
from service.settings import Settings
from service.state import store as state_store
from service.state.engine import Key, Value
from service.state.entities import Answers, User
from service.state.errors import StateTimeout, StateUnavailable
from service.state.lmdb_engine import LmdbEngine
from service.state.store import MAX_FAILURES, EntityStore
from tests.support.processes import total

USER = User({"age": 31}, Answers(["i1"], [1.0], [None], [None]), updated_at=1)
LOOKUPS = 'rerank_state_lookups_total{result="%s"}'


def put(directory, **blobs):
    engine = LmdbEngine(directory)
    engine.put_many([(Key("user", item), Value(blob)) for item, blob in blobs.items()])
    engine.close()


def settings_of(address, **settings):
    return Settings(state=str(address), state_timeout_ms=10_000, **settings)


def look_up(settings, ids, metrics=None, times=1, prepare=lambda store: None):
    """Return the statuses of the last of several lookups, and the description of the store."""

    async def run():
        store = EntityStore(settings, settings.state, metrics or Metrics())
        await store.start()
        prepare(store)
        try:
            for _ in range(times):
                statuses = await user_statuses(store, ids)
            return statuses, store.describe()
        finally:
            await store.close()

    return asyncio.run(run())


async def user_statuses(store, ids):
    """Look up lists without candidates, one for each user."""
    return [lookup.user.status for lookup in await store.look_up(ids, [[]] * len(ids))]


def value(metrics, line):
    return next(
        float(li.rsplit(" ", 1)[1])
        for li in metrics.page().decode().splitlines()
        if li.startswith(line)
    )


def test_no_store_is_made_without_an_address():
    assert EntityStore.of(Settings(), Metrics()) is None


@pytest.mark.parametrize("address", ["lmdb", "redis", "cluster"], indirect=True)
def test_users_are_hits_and_misses(address, engine):
    engine.put_many([(Key("user", "u1"), Value(USER.to_blob()))])
    engine.close()  # LMDB refuses to open a directory twice in one process
    metrics = Metrics()
    statuses, description = look_up(settings_of(address), ["u1", "u2", "u1", "é" * 250], metrics)
    assert statuses == ["hit", "miss", "hit", "miss"]
    assert (description["status"], description["problem"]) == ("up", None)
    assert sum(description["entities"].values()) == 1
    assert value(metrics, LOOKUPS % "hit") == 2
    assert value(metrics, LOOKUPS % "miss") == 2
    assert value(metrics, "rerank_state_read_bytes_total") == len(USER.to_blob())
    assert value(metrics, "rerank_state_duration_seconds_count") == 1
    assert value(metrics, "rerank_state_age_seconds_sum") > 1e9
    assert value(metrics, "rerank_state_up") == 1
    assert value(metrics, "rerank_state_configured") == 1
    is_lmdb = address.scheme == "lmdb"
    assert value(metrics, "rerank_state_volatile") == (0 if is_lmdb else 1)
    assert value(metrics, "rerank_state_lag_seconds") == 0
    assert (value(metrics, "rerank_state_limit_bytes") > 0) == is_lmdb
    assert total(metrics.page().decode(), "rerank_state_entities") == 1


@pytest.mark.parametrize("address", ["lmdb", "redis", "cluster"], indirect=True)
def test_users_and_items_of_all_lists_are_read_together(address, engine, monkeypatch):
    kept = [Key("user", "u1"), Key("item", "u1"), Key("item", "i1"), Key("item", "i2")]
    blobs = {key: f"{key.kind} {key.id}".encode() for key in kept[1:]}
    blobs[kept[0]] = USER.to_blob()
    engine.put_many([(key, Value(blob)) for key, blob in blobs.items()])
    engine.close()
    calls, metrics = [], Metrics()

    async def run():
        settings = settings_of(address)
        store = EntityStore(settings, settings.state, metrics)
        await store.start()
        read = store._read

        async def counted(users, items, began):
            calls.append((list(users), list(items)))
            return await read(users, items, began)

        monkeypatch.setattr(store, "_read", counted)
        try:
            lists = [["i2", "gone", "i1", "é" * 250], ["i1", "u1"], [""][:0]]
            return await store.look_up(["u1", None, "u2"], lists)
        finally:
            await store.close()

    first, second, third = asyncio.run(run())
    users = [None if each.user is None else each.user.status for each in (first, second, third)]
    assert users == ["hit", None, "miss"]
    assert first.items == [b"item i2", None, b"item i1", None]
    assert (second.items, third.items) == ([b"item i1", b"item u1"], [])
    assert calls == [(["u1", "u2"], ["i2", "gone", "i1", "é" * 250, "i1", "u1"])]
    assert value(metrics, "rerank_state_read_bytes_total") == sum(map(len, blobs.values()))


@pytest.mark.parametrize("address", ["lmdb", "redis", "cluster"], indirect=True)
def test_lists_of_known_items_have_their_bytes_in_any_order(address, engine):
    ids = [f"i{number}" for number in range(6)]
    engine.put_many([(Key("item", item), Value(item.encode())) for item in ids[:5]])
    engine.close()
    lists = [ids, ids[::-1], [ids[3], ids[5], ids[3]], []]

    async def run():
        settings = settings_of(address)
        store = EntityStore(settings, settings.state, Metrics())
        await store.start()
        try:
            return [
                await store.look_up([None], [ids]),
                await store.look_up([None] * 4, lists),
                *[await store.look_up([None], [each]) for each in lists],
            ]
        finally:
            await store.close()

    first, together, *alone = asyncio.run(run())
    assert first[0].items == [*(item.encode() for item in ids[:5]), None]
    for number, listed in enumerate(lists):
        expected = [item.encode() if item in ids[:5] else None for item in listed]
        for lookup in (together[number], alone[number][0]):
            assert lookup.items == expected
            if lookup.recent is not None:
                assert lookup.recent.items.blobs(lookup.recent.handles) == expected


def test_items_that_could_not_be_read_are_told_from_absent_ones(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database")
    settings, metrics = settings_of(f"lmdb://{tmp_path}"), Metrics()

    async def run():
        store = EntityStore(settings, settings.state, metrics)
        await store.start()
        try:
            return await store.look_up([None, None], [["i1", "i2"], ["i2"]])
        finally:
            await store.close()

    assert [(each.user, each.items) for each in asyncio.run(run())] == [(None, None)] * 2
    assert value(metrics, 'rerank_state_item_lookups_total{result="error"}') == 2
    assert value(metrics, LOOKUPS % "error") == 0


def test_a_blob_that_no_store_has_written_is_unavailable_and_counted(tmp_path):
    put(tmp_path, u1=b"noise")
    metrics = Metrics()
    assert look_up(settings_of(f"lmdb://{tmp_path}"), ["u1"], metrics)[0] == ["unavailable"]
    assert value(metrics, LOOKUPS % "corrupt") == 1


def test_a_store_that_cannot_be_opened_is_unavailable_and_described(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database")
    metrics = Metrics()
    statuses, description = look_up(settings_of(f"lmdb://{tmp_path}"), ["u1", "u2"], metrics)
    assert statuses == ["unavailable"] * 2
    assert description["status"] == "down"
    assert str(tmp_path) in description["problem"]
    assert value(metrics, LOOKUPS % "error") == 2
    assert value(metrics, "rerank_state_up") == 0
    assert value(metrics, "rerank_state_configured") == 1


def test_no_description_has_the_password():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"redis://:s3cret@127.0.0.1:{listener.getsockname()[1]}/0"
        settings = Settings(state=address)
        statuses, description = look_up(settings, ["u1"])
    assert statuses == ["unavailable"]
    assert "s3cret" not in f"{description} {settings!r}"


def test_a_lookup_ends_with_its_budget_and_is_counted(monkeypatch):
    monkeypatch.setattr(state_store, "HEALTH_TIMEOUT_S", 0.05)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        port = listener.getsockname()[1]
        settings = Settings(state=f"redis://127.0.0.1:{port}/0", state_timeout_ms=1)
        metrics = Metrics()
        assert look_up(settings, ["u1"], metrics)[0] == ["unavailable"]
    assert value(metrics, LOOKUPS % "timeout") == 1


class Scripted:
    """A reader that fails as often as it is told to, and counts its calls."""

    def __init__(self, failures, error):
        self.calls, self._failures, self._error = 0, failures, error

    async def read_recent(self, users, items, handles, recent):
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return [None] * len(users), [None] * len(items), None

    async def keep_open(self):
        pass

    async def close(self):
        pass


@pytest.mark.parametrize("error", [StateTimeout("late"), StateUnavailable("down")])
def test_after_failures_in_a_row_lookups_are_skipped_until_one_succeeds(tmp_path, error):
    reader, now = Scripted(MAX_FAILURES + 1, error), [100.0]

    async def run():
        settings = settings_of(f"lmdb://{tmp_path}")
        store = EntityStore(settings, settings.state, Metrics(), clock=lambda: now[0])
        store._reader = reader
        statuses = []
        for moment in (*[100.0] * (MAX_FAILURES + 3), 101.5, 101.6, 103.0, 103.0):
            now[0] = moment
            statuses += await user_statuses(store, ["u"])
        await store.close()
        return statuses

    statuses = asyncio.run(run())
    assert statuses == ["unavailable"] * (MAX_FAILURES + 5) + ["miss"] * 2
    assert reader.calls == MAX_FAILURES + 3  # the failures, then one of each later second


def test_a_store_that_comes_up_later_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(state_store, "CHECK_S", 0.02)
    data = tmp_path / "data.mdb"
    data.write_bytes(b"no database")

    async def run():
        settings = settings_of(f"lmdb://{tmp_path}")
        store = EntityStore(settings, settings.state, Metrics())
        await store.start()
        first = (await user_statuses(store, ["u1"]))[0]
        data.unlink()
        for _ in range(1500):
            if store.problem is None:
                break
            await asyncio.sleep(0.02)
        second = (await user_statuses(store, ["u1"]))[0]
        await store.close()
        return first, second

    assert asyncio.run(run()) == ("unavailable", "miss")


def test_an_embedded_engine_is_read_without_a_pause(tmp_path):
    put(tmp_path, u1=USER.to_blob())

    async def run():
        settings = settings_of(f"lmdb://{tmp_path}")
        store = EntityStore(settings, settings.state, Metrics())
        await store.start()
        lookup = store.look_up(["u1"], [["i1"]])
        with pytest.raises(StopIteration) as end:
            lookup.send(None)  # it ends without yielding to an event loop
        await store.close()
        return end.value.value[0].user.status

    assert asyncio.run(run()) == "hit"
