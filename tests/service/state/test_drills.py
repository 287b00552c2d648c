"""Failures of the store under a running service: ranking goes on, and the store is used again."""

import contextlib
import random
import re
import shutil
import signal

import httpx
import pytest

from service.state import store as state_store
from service.state.address import parse_address
from service.state.engine import Key, Value
from service.state.entities import Answers, User
from service.state.errors import StateFull, StateReplaced
from service.state.lmdb_engine import GIB, LmdbEngine
from service.state.opening import open_engine
from service.state.store import MAX_FAILURES
from tests.support.processes import poll
from tests.support.redis_servers import redis_server
from tests.support.servers import fresh

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
SMALL = 1 << 19  # bytes of a store that is soon full
CANDIDATES = ["1", "296", "318", "593"]
BLOB = User({}, Answers(["260"], [1.0], [None], [None]), updated_at=1).to_blob()


@pytest.fixture(autouse=True)
def quick_checks(monkeypatch):
    """Look at the store often, so that recovery takes no seconds."""
    monkeypatch.setattr(state_store, "CHECK_S", 0.05)


@pytest.fixture
def serve(session):
    """A function that opens a client of a service with a store at an address."""
    contexts = []

    def start(address, **settings):
        settings = {"state_timeout_ms": 5_000, **settings}
        service = fresh(session, state=address, **settings)
        contexts.append(service)
        client = httpx.Client(base_url=service.__enter__(), timeout=30)
        contexts.append(client)
        return client

    yield start
    for context in reversed(contexts):
        context.__exit__(None, None, None)


def put(address, blob=BLOB, user="u1"):
    engine = open_engine(parse_address(address), timeout_s=30)
    engine.put_many([(Key("user", user), Value(blob))])
    engine.close()


def fill(directory, max_bytes):
    engine = LmdbEngine(directory, max_bytes)
    with contextlib.suppress(StateFull):
        for number in range(max_bytes):
            engine.put_many([(Key("item", f"i{number}"), Value(bytes(3000)))])
    engine.close()


def rank(client, user="u1"):
    """Return the store's part in a ranking, which must succeed, and the degraded reasons."""
    body = {"user": {"id": user}, "candidates": CANDIDATES, "explain": True}
    response = client.post("/rerank", json=body).raise_for_status().json()
    assert len(response["slate"]) == len(CANDIDATES)
    assert None not in [entry["logprob"] for entry in response["slate"]]
    degraded = response["degraded"]
    return response["state"]["user"], None if degraded is None else degraded["reasons"]


def feedback(client, number, user="u1"):
    event = {"event_id": f"e{number}", "user": user, "item": "296", "type": "like"}
    return client.post("/feedback", json={"events": [event]})


def becomes(client, status):
    """Wait until a ranking has the status, and return its reasons."""
    return poll(lambda: rank(client)[0] == status and (rank(client)[1] or "none"), 30)


def url_of(server):
    return f"redis://127.0.0.1:{server.port}/0"


def test_a_slow_store_is_given_up_and_used_again_once_it_is_quick(serve, tmp_path):
    with redis_server("valkey", tmp_path) as server:
        put(url_of(server))
        client = serve(url_of(server), state_timeout_ms=500)
        assert becomes(client, "hit") == "none"
        server.process.send_signal(signal.SIGSTOP)
        assert rank(client) == ("unavailable", ["state"])
        for _ in range(20):
            assert rank(client)[1] == ["state"]
        page = client.get("/metrics").text
        late = re.findall(r'rerank_state_lookups_total{result="timeout"} (\S+)', page)
        assert MAX_FAILURES <= float(late[0]) < 21  # the others were skipped, and cost no time
        server.process.send_signal(signal.SIGCONT)
        assert becomes(client, "hit") == "none"


def test_a_store_that_went_down_is_used_again_and_takes_the_repeated_event_once(serve, tmp_path):
    with redis_server("valkey", tmp_path, *DURABLE) as server:
        put(url_of(server))
        client = serve(url_of(server))
        assert feedback(client, 1).raise_for_status().json()["accepted"] == 1
        server.kill()
        assert rank(client) == ("unavailable", ["state"])
        refused = feedback(client, 2)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert poll(
            lambda: client.get("/readyz").json() == {"status": "ready", "state": "down"}, 30
        )
        server.start()
        assert poll(lambda: feedback(client, 2).status_code == 200, 30)
        assert feedback(client, 1).json()["duplicates"] == 1
        assert becomes(client, "hit") == "none"
        user = client.get("/users/u1").raise_for_status().json()
        assert len(user["history"]["id"]) == 3
        assert poll(lambda: client.get("/readyz").json()["state"] == "up", 30)


@pytest.mark.parametrize("engine", ["valkey", "lmdb"])
def test_a_store_that_is_wiped_under_the_service_is_empty_and_takes_writes(serve, tmp_path, engine):
    with redis_server("valkey", tmp_path / "server") as server, server.client() as administrator:
        address = url_of(server) if engine == "valkey" else f"lmdb://{tmp_path}/state"
        put(address)
        client = serve(address)
        assert rank(client) == ("hit", None)
        if engine == "valkey":
            administrator.flushall()
        else:
            shutil.rmtree(tmp_path / "state")
        assert poll(lambda: feedback(client, 1).status_code == 200, 30)
        assert becomes(client, "hit") == "none"
        assert rank(client, "u2") == ("miss", None)
        assert len(client.get("/users/u1").json()["history"]["id"]) == 1


def test_no_write_to_a_removed_file_is_acknowledged(tmp_path):
    engine = LmdbEngine(tmp_path / "state")
    entries = [(Key("user", "u1"), Value(b"1"))]
    engine.put_many(entries)
    shutil.rmtree(tmp_path / "state")
    for call in (
        lambda: engine.put_many(entries),
        lambda: engine.update_many([Key("user", "u1")], lambda place, blob: Value(b"2")),
        lambda: engine.delete([Key("user", "u1")]),
        engine.health,
    ):
        with pytest.raises(StateReplaced, match="was removed or replaced"):
            call()
    engine.close()


@pytest.mark.parametrize("engine", ["valkey", "lmdb"])
def test_a_full_store_refuses_events_and_is_read_as_before(serve, tmp_path, engine):
    with redis_server("valkey", tmp_path / "server") as server, server.client() as administrator:
        address = url_of(server) if engine == "valkey" else f"lmdb://{tmp_path}/state"
        put(address)
        if engine == "valkey":
            administrator.config_set("maxmemory", 1)
        else:
            fill(tmp_path / "state", SMALL)
        client = serve(address, state_max_gb=SMALL / GIB)
        refusals = (feedback(client, number, user=f"n{number}" * 40) for number in range(5_000))
        full = next(response for response in refusals if response.status_code != 200)
        assert (full.status_code, full.json()["code"]) == (507, "state_full")
        assert rank(client) == ("hit", None)
        if engine == "valkey":
            administrator.config_set("maxmemory", 0)
            assert feedback(client, "again").status_code == 200


def test_entities_of_another_schema_are_used_as_far_as_they_are_declared(serve, tmp_path):
    other = User(
        {"age": 31, "city": ["Oslo"], "vector": [1.0, 2.0]},
        Answers(["260", "nosuch"], [1.0, 0.5], ["bought", None], [1, None]),
        updated_at=1,
        fingerprint=b"12345678",
    )
    put(f"lmdb://{tmp_path}/state", other.to_blob())
    client = serve(f"lmdb://{tmp_path}/state")
    assert rank(client) == ("hit", None)
    body = {"user": {"id": "u1"}, "candidates": CANDIDATES, "explain": True}
    used = client.post("/rerank", json=body).json()["state"]
    assert (used["history"], used["features"]) == (2, [])
    assert sorted(used["ignored"]) == ["age", "city", "vector"]


def test_no_damage_of_an_entity_fails_a_ranking(serve, tmp_path):
    draw = random.Random(0)
    blobs = {"empty": b"", "newer": BLOB.replace(b"\x01", b"\x7f", 1), "whole": BLOB}
    for number in range(40):
        damaged = bytearray(BLOB[: draw.randrange(1, len(BLOB) + 1)])
        for _ in range(draw.randrange(3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        blobs[f"d{number}"] = bytes(damaged)
    engine = LmdbEngine(tmp_path / "state")
    engine.put_many([(Key("user", user), Value(blob)) for user, blob in blobs.items()])
    engine.close()
    client = serve(f"lmdb://{tmp_path}/state")
    outcomes = {user: rank(client, user) for user in blobs}
    assert all(each in (("hit", None), ("unavailable", ["state"])) for each in outcomes.values())
    assert outcomes["whole"] == ("hit", None)
    assert outcomes["newer"] == outcomes["empty"] == ("unavailable", ["state"])
