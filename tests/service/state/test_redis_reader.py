"""Lookups in Redis on an event loop: budgets, busy loops, lost connections, passwords."""

import asyncio
import shutil
import signal
import socket
import ssl
import threading
import time

import pytest
import uvloop

from service.state.address import parse_address
from service.state.engine import Key, Value
from service.state.errors import EngineError, StateTimeout, StateUnavailable
from service.state.redis_engine import RedisEngine
from service.state.redis_reader import PIPELINED, RedisReader, open_reader
from tests.support.redis_servers import SERVERS, redis_server
from tests.support.tls import self_signed

ITEMS = [f"i{number}" for number in range(50)]
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])


def put(engine, ids=ITEMS):
    engine.put_many([(Key("item", item), Value(item.encode())) for item in ids])


def run(coroutine, new_loop=asyncio.new_event_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(asyncio.wait_for(coroutine, 60))


def address_of(server, login="", database=0):
    return parse_address(f"redis://{login}127.0.0.1:{server.port}/{database}")


async def read_one(address):
    reader = open_reader(address, 5.0, 1)
    try:
        return await reader.read(["u1"], [])
    finally:
        await reader.close()


@LOOPS
@pytest.mark.parametrize("address", SERVERS, indirect=True)
def test_lookups_at_one_time_read_what_was_written(engine, address, new_loop):
    put(engine)

    async def read():
        reader = open_reader(address, timeout_s=30, connections=2)
        lists = [ITEMS[start : start + 7] for start in range(3 * PIPELINED)]
        try:
            return lists, await asyncio.gather(*(reader.read(["u1"], each) for each in lists))
        finally:
            await reader.close()

    lists, blobs = run(read(), new_loop)
    assert blobs == [[None, *(item.encode() for item in each)] for each in lists]


@LOOPS
@pytest.mark.parametrize(
    ("address", "turns"),
    [("redis", 0), ("redis", 1), ("redis", 3), ("cluster", 1)],
    indirect=["address"],
)
def test_a_loop_that_is_busy_beyond_the_budget_reads_what_has_arrived(
    engine, address, turns, new_loop
):
    put(engine)

    async def read_while_busy():
        reader = open_reader(address, timeout_s=0.05, connections=1)
        try:
            await reader.keep_open()
            lookup = asyncio.ensure_future(reader.read([], ITEMS))
            for _ in range(turns):  # the command may be sent before the loop is busy, or not
                await asyncio.sleep(0)
            time.sleep(0.2)  # a run of the model
            return await lookup
        finally:
            await reader.close()

    assert run(read_while_busy(), new_loop) == [item.encode() for item in ITEMS]


@LOOPS
@pytest.mark.parametrize("busy_s", [0.0, 0.2])
def test_the_budget_holds_for_a_server_that_is_slow(tmp_path, busy_s, new_loop):
    async def read(server):
        reader = RedisReader(address_of(server), timeout_s=0.05, connections=1)
        try:
            await reader.keep_open()
            server.process.send_signal(signal.SIGSTOP)
            for _ in range(2):
                lookup = asyncio.ensure_future(reader.read([], ITEMS[:2]))
                await asyncio.sleep(0)
                time.sleep(busy_s)
                with pytest.raises(StateTimeout, match="50 ms"):
                    await asyncio.wait_for(lookup, 5)
            server.process.send_signal(signal.SIGCONT)
            await reader.keep_open()
            # The late responses are those of the lookups that were given up.
            return await reader.read([], ITEMS[2:5])
        finally:
            await reader.close()

    with redis_server("redis", tmp_path) as server:
        engine = RedisEngine(address_of(server))
        put(engine)
        engine.close()
        assert run(read(server), new_loop) == [item.encode() for item in ITEMS[2:5]]


def test_a_connection_without_a_response_is_closed_and_another_one_opened():
    connections = []

    async def never_respond(reader, writer):
        connections.append(writer)
        await reader.read()

    async def look_up_twice():
        server = await asyncio.start_server(never_respond, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        address = parse_address(f"redis://127.0.0.1:{port}/0")
        reader = RedisReader(address, timeout_s=0.05, connections=1, connect_s=0.2)
        for number in (1, 2):
            with pytest.raises(StateTimeout, match="50 ms"):
                await reader.read(["u1"], [])
            while len(connections) < number:  # the second needs the place of the first
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
        await reader.close()
        server.close()
        for writer in connections:
            writer.close()

    run(look_up_twice())


def test_a_peer_of_another_protocol_is_unavailable():
    async def speak_http(reader, writer):
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def look_up():
        async with await asyncio.start_server(speak_http, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(StateUnavailable, match="lost"):
                await read_one(parse_address(f"redis://127.0.0.1:{port}/0"))

    run(look_up())


def test_a_server_that_was_restarted_is_read_at_once(tmp_path):
    async def read(server):
        reader = RedisReader(address_of(server), timeout_s=5.0, connections=2)
        try:
            blobs = [await reader.read([], ITEMS[:1])]
            server.kill()
            with pytest.raises(StateUnavailable):
                await reader.read([], ITEMS[:1])
            server.start()
            return [*blobs, await reader.read([], ITEMS[:1])]
        finally:
            await reader.close()

    with redis_server("valkey", tmp_path) as server:
        assert run(read(server)) == [[None], [None]]


def test_a_reader_logs_in_and_takes_the_database_of_the_address(tmp_path):
    with redis_server("redis", tmp_path, "--requirepass", "right") as server:
        address = address_of(server, ":right@", database=3)
        engine = RedisEngine(address)
        engine.put_many([(Key("user", "u1"), Value(b"1"))])
        engine.close()
        assert run(read_one(address)) == [b"1"]
        assert run(read_one(address_of(server, "default:right@", database=3))) == [b"1"]
        assert run(read_one(address_of(server, ":right@"))) == [None]
        for login in (":s3cret@", "nobody:s3cret@", ""):
            with pytest.raises(EngineError) as error:
                run(read_one(address_of(server, login)))
            assert "s3cret" not in str(error.value)


def test_a_server_that_is_down_is_unavailable():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = parse_address(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        with pytest.raises(StateUnavailable):
            run(read_one(address))


def test_a_host_that_is_no_name_is_unavailable():
    """The resolver refuses it by an error of its own."""
    address = parse_address("redis://no..name:6379/0")
    for call in (RedisEngine(address).health, lambda: run(read_one(address))):
        with pytest.raises(StateUnavailable, match=r"redis://no\.\.name:6379/0"):
            call()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_connections_by_tls_share_a_context_that_a_thread_builds(tmp_path, monkeypatch):
    certificate, key = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    builders, connections, build = [], [], ssl.create_default_context

    def counted():
        builders.append(threading.current_thread())
        return build()

    monkeypatch.setattr(ssl, "create_default_context", counted)

    async def respond_once(reader, writer):
        connections.append(writer)
        await reader.read(100)
        writer.write(b"*1\r\n$-1\r\n")
        writer.close()

    async def look_up_twice():
        async with await asyncio.start_server(respond_once, "127.0.0.1", 0, ssl=served) as server:
            port = server.sockets[0].getsockname()[1]
            reader = RedisReader(parse_address(f"rediss://127.0.0.1:{port}/0"), 5.0, 1)
            try:
                return [await reader.read(["u1"], []) for _ in range(2)]
            finally:
                await reader.close()

    assert run(look_up_twice()) == [[None], [None]]
    assert len(connections) == 2
    (builder,) = builders
    assert builder is not threading.main_thread()
