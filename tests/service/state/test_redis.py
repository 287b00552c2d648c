"""Redis: servers that are down, full, slow or restarted, and what their settings mean."""

import socket

import pytest

from service.state.address import parse_address
from service.state.engine import Key, Value
from service.state.errors import StateFull, StateTimeout, StateUnavailable
from service.state.redis_engine import RedisEngine
from service.state.redis_health import health_of
from tests.support.redis_servers import redis_server

USER = Key("user", "u1")


def engine_of(server, **options):
    return RedisEngine(parse_address(f"redis://127.0.0.1:{server.port}/0"), **options)


@pytest.mark.parametrize("address", ["redis"], indirect=True)
def test_stores_with_different_prefixes_share_a_server(engine, address):
    other = RedisEngine(parse_address(f"{address}?prefix=other"))
    engine.put_many([(USER, Value(b"1"))])
    assert other.get_many([USER]) == [None]
    assert list(other.scan("user")) == []
    other.close()


@pytest.mark.parametrize("address", ["redis"], indirect=True)
def test_a_key_of_another_type_is_absent(engine, servers):
    with servers("redis").client() as client:
        client.lpush("rerank:{uu1}", "x")
    assert engine.get_many([USER]) == [None]


def test_a_server_that_is_down_is_unavailable():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = parse_address(f"redis://:s3cret@127.0.0.1:{listener.getsockname()[1]}/0")
        engine = RedisEngine(address)
        with pytest.raises(StateUnavailable) as error:
            engine.get_many([USER])
        assert "s3cret" not in str(error.value)
        engine.close()


def test_a_server_that_does_not_respond_is_late():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        address = parse_address(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        engine = RedisEngine(address, timeout_s=0.1)
        with pytest.raises(StateTimeout, match="no response in time"):
            engine.get_many([USER])
        engine.close()


def test_a_wrong_password_is_refused_without_repeating_it(tmp_path):
    with redis_server("redis", tmp_path, "--requirepass", "right") as server:
        address = parse_address(f"redis://:s3cret@127.0.0.1:{server.port}/0")
        engine = RedisEngine(address)
        with pytest.raises(StateUnavailable) as error:
            engine.get_many([USER])
        assert "s3cret" not in str(error.value)
        engine.close()


def test_a_full_server_refuses_the_write_and_is_read_as_before(tmp_path):
    with redis_server("redis", tmp_path) as server:
        engine = engine_of(server)
        engine.put_many([(USER, Value(b"1"))])
        with server.client() as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(StateFull, match="maxmemory") as error:
            engine.put_many([(Key("user", "someone"), Value(b"1"))])
        assert "someone" not in str(error.value)
        with pytest.raises(StateFull):
            engine.update_many([USER], lambda place, blob: Value(b"2"), [b"m" * 16])
        assert engine.get_many([USER]) == [b"1"]
        engine.close()


def test_an_engine_goes_on_after_a_restart_of_the_server(tmp_path):
    with redis_server("redis", tmp_path) as server:
        engine = engine_of(server)
        engine.put_many([(USER, Value(b"1"))])
        server.kill()
        with pytest.raises(StateUnavailable):
            engine.get_many([USER])
        server.start()
        assert engine.get_many([USER]) == [None]
        engine.close()


def test_acknowledged_writes_outlive_a_kill_of_a_durable_server(tmp_path):
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_server("valkey", tmp_path, *options) as server:
        engine = engine_of(server)
        assert engine.health().durable is True
        engine.put_many([(USER, Value(b"1"))])
        server.kill()
        server.start()
        assert engine.get_many([USER]) == [b"1"]
        engine.close()


def test_the_health_says_what_a_power_cut_loses():
    durable = {"aof_enabled": 1, "used_memory": 5, "role": "master"}
    assert health_of([durable], 3, "always").durable is True
    assert health_of([durable], 3, "always").notes == []
    assert health_of([durable], 3, None).durable is None
    assert "appendfsync is everysec" in health_of([durable], 3, "everysec").notes[0]
    assert health_of([durable, {"aof_enabled": 0}], 3, "always").durable is False
    evicting = {**durable, "maxmemory_policy": "allkeys-lru"}
    assert "maxmemory-policy is allkeys-lru" in health_of([evicting], 3, "always").notes[0]


def test_the_limit_of_servers_is_the_sum_of_theirs_if_each_has_one():
    assert health_of([{"maxmemory": 5}, {"maxmemory": 7}], 3, "always").limit == 12
    assert health_of([{"maxmemory": 5}, {"maxmemory": 0}], 3, "always").limit is None


def test_the_health_of_a_replica_tells_its_lag():
    replica = {"role": "slave", "master_last_io_seconds_ago": 7}
    assert health_of([replica], 3, "always").lag_s == 7
