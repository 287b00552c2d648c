"""Items that Redis tracks: read once, and again after a change, before any lookup can miss it."""

import asyncio
import random

import pytest

from service.engine.features.recent_items import RecentItems
from service.state import redis_tracking
from service.state.address import parse_address
from service.state.engine import Key, Value, now_ms
from service.state.errors import StateUnavailable
from service.state.redis_engine import RedisEngine
from service.state.redis_reader import RedisReader
from service.state.redis_tracking import TrackedItems
from tests.support.redis_servers import redis_server

ITEMS = [f"i{number}" for number in range(40)]
SERVERS = pytest.mark.parametrize("address", ["redis", "valkey"], indirect=True)


class Worker:
    """A reader with its items, which looks up as the store of a worker does."""

    def __init__(self, address, handles=1 << 10, timeout_s=30.0):
        self.recent = RecentItems(handles)
        self.reader = RedisReader(address, timeout_s, 4, self.recent)

    async def __aenter__(self):
        await self.reader.keep_open()
        return self

    async def __aexit__(self, *error):
        await self.reader.close()

    async def look_up(self, items, users=()):
        handles = self.recent.find(items)
        of_users, of_items, kept = await self.reader.read_recent(users, items, handles, self.recent)
        if kept is not None:
            assert kept.items.blobs(kept.handles) == of_items
        return of_users, of_items

    async def read(self, items, users=()):
        """Return the blobs, and the bytes that were read."""
        before = self.recent.bytes_read
        of_users, of_items = await self.look_up(items, users)
        return [*of_users, *of_items], self.recent.bytes_read - before


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def put(engine, item, blob, expires_at=None):
    engine.put_many([(Key("item", item), Value(blob, expires_at))])


@SERVERS
def test_items_are_read_once_and_after_each_kind_of_change(address, engine):
    async def look():
        async with Worker(address) as worker:
            put(engine, "i1", b"1")
            put(engine, "i2", b"22")
            engine.put_many([(Key("user", "u1"), Value(b"user"))])
            seen = [await worker.read(["i1", "i2", "i3"], ["u1", "u2"]) for _ in range(2)]
            put(engine, "i3", b"333")
            seen.append(await worker.read(["i3", "i1"]))
            engine.update_many([Key("item", "i1")], lambda place, blob: Value(b"1!"), [b"m" * 16])
            seen.append(await worker.read(["i3", "i1"]))
            engine.delete([Key("item", "i1")])
            seen.append(await worker.read(["i2", "i1"]))
            return seen

    assert run(look()) == [
        ([b"user", None, b"1", b"22", None], 7),
        ([b"user", None, b"1", b"22", None], 4),
        ([b"333", b"1"], 3),
        ([b"333", b"1!"], 2),
        ([b"22", None], 0),
    ]


@pytest.mark.parametrize("address", ["redis"], indirect=True)
def test_an_emptied_server_has_no_items(address, engine, servers):
    async def look():
        async with Worker(address) as worker:
            put(engine, "i1", b"1")
            assert await worker.read(["i1"]) == ([b"1"], 1)
            with servers("redis").client() as client:
                client.flushall()
            return await worker.read(["i1"])

    assert run(look()) == ([None], 0)


@SERVERS
def test_an_item_that_expires_is_read_with_every_lookup(address, engine):
    async def look():
        async with Worker(address) as worker:
            put(engine, "i1", b"1", now_ms() + 400)
            put(engine, "i2", b"2")
            seen = [await worker.read(["i1", "i2"]) for _ in range(2)]
            await asyncio.sleep(0.5)
            return [*seen, await worker.read(["i1", "i2"])]

    assert run(look()) == [([b"1", b"2"], 2), ([b"1", b"2"], 1), ([None, b"2"], 0)]


async def write_and_read(engine, workers, writes):
    """Write items one after the other; return the number of lookups that lack the last write.

    Lookups go on all the time, with few handles, so that items also make room for others.
    """
    draw, stale, ended = random.Random(4), 0, False

    async def keep_busy(worker):
        while not ended:
            await worker.look_up(draw.sample(ITEMS, 5), ["u1"])
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(keep_busy(worker)) for worker in workers for _ in range(3)]
    written: dict[str, bytes] = {}
    for number in range(writes):
        item, blob = draw.choice(ITEMS), str(number).encode()
        await asyncio.to_thread(put, engine, item, blob)  # acknowledged
        written[item] = blob
        wanted = [item, *draw.sample(ITEMS, 3)]
        wanted = list(dict.fromkeys(wanted))
        for worker in workers:
            _, blobs = await worker.look_up(wanted, ["u1"] if number % 2 else [])
            stale += blobs != [written.get(each) for each in wanted]
    ended = True
    await asyncio.gather(*tasks)
    return stale


@pytest.mark.parametrize("handles", [32, 1 << 10])
@SERVERS
def test_every_worker_reads_what_was_acknowledged(address, engine, handles):
    async def look():
        async with Worker(address, handles) as one, Worker(address, handles) as other:
            return await write_and_read(engine, [one, other], 150)

    assert run(look()) == 0


@pytest.mark.parametrize("address", ["valkey"], indirect=True)
def test_without_the_messages_of_the_server_workers_would_miss_writes(address, engine, monkeypatch):
    monkeypatch.setattr(TrackedItems, "_take_message", lambda self, message: None)

    async def look():
        async with Worker(address) as worker:
            return await write_and_read(engine, [worker], 150)

    assert run(look()) > 20


def test_a_server_that_was_restarted_is_read_again_and_tracks_again(tmp_path):
    async def look(server, address):
        async with Worker(address) as worker:
            engine = RedisEngine(address)
            put(engine, "i1", b"1")
            seen = [await worker.read(["i1"]) for _ in range(2)]
            server.kill()
            with pytest.raises(StateUnavailable):
                await worker.read(["i1"])
            server.start()
            seen.append(await worker.read(["i1"]))
            put(engine, "i1", b"22")
            seen += [await worker.read(["i1"]) for _ in range(3)]
            engine.close()
            return seen

    with redis_server("valkey", tmp_path) as server:
        address = parse_address(f"redis://127.0.0.1:{server.port}/0")
        seen = run(look(server, address))
    assert seen[:3] == [([b"1"], 1), ([b"1"], 0), ([None], 0)]
    assert seen[3] == ([b"22"], 2)
    assert seen[-1] == ([b"22"], 0)


@pytest.mark.parametrize("command", ["CLIENT", "HELLO", "INFO"])
def test_a_server_without_a_command_is_read_with_every_lookup(tmp_path, command):
    async def look(address):
        async with Worker(address) as worker:
            engine = RedisEngine(address)
            put(engine, "i1", b"1")
            seen = [await worker.read(["i1"], ["u1"])]
            put(engine, "i1", b"22")
            seen += [await worker.read(["i1"]) for _ in range(2)]
            engine.close()
            return seen

    options = ("--rename-command", command, "")
    with redis_server("redis", tmp_path, *options) as server:
        address = parse_address(f"redis://127.0.0.1:{server.port}/0")
        assert run(look(address)) == [([None, b"1"], 1), ([b"22"], 2), ([b"22"], 2)]


@pytest.mark.parametrize("address", ["valkey"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value"), [("UNORDERED", (b"redis_version",)), ("FIRST_VERSION", 1000)]
)
def test_a_server_that_keeps_no_order_is_read_with_every_lookup(
    address, engine, monkeypatch, name, value
):
    monkeypatch.setattr(redis_tracking, name, value)

    async def look():
        async with Worker(address) as worker:
            put(engine, "i1", b"1")
            return [await worker.read(["i1"]) for _ in range(2)]

    assert run(look()) == [([b"1"], 1)] * 2


@pytest.mark.parametrize("address", ["valkey"], indirect=True)
def test_items_are_read_again_from_time_to_time(address, engine, monkeypatch):
    async def look():
        async with Worker(address) as worker:
            put(engine, "i1", b"1")
            seen = [await worker.read(["i1"]) for _ in range(2)]
            monkeypatch.setattr(redis_tracking, "KEPT_S", 0.0)
            await worker.reader.keep_open()
            return [*seen, await worker.read(["i1"])]

    assert run(look()) == [([b"1"], 1), ([b"1"], 0), ([b"1"], 1)]


def test_a_proxy_that_closes_instead_of_an_answer_is_used_without_tracking(tmp_path):
    """Such a proxy knows MGET alone."""

    async def look(port):
        async def forward(reader, writer):
            up, down = await asyncio.open_connection("127.0.0.1", port)
            while data := await reader.read(1 << 16):
                if b"MGET" not in data:
                    break
                down.write(data)
                writer.write(await up.read(1 << 16))
            writer.close()
            down.close()

        async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
            address = parse_address(f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0")
            worker = Worker(address)
            with pytest.raises(StateUnavailable):  # after two connections
                await worker.read(["i1"])
            seen = await worker.read(["i1"])
            await worker.reader.close()
            return seen

    with redis_server("valkey", tmp_path) as server:
        engine = RedisEngine(parse_address(f"redis://127.0.0.1:{server.port}/0"))
        put(engine, "i1", b"1")
        engine.close()
        assert run(look(server.port)) == ([b"1"], 1)
