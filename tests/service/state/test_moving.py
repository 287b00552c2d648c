"""The recipes of docs/operations.md under a running service: move, restore a dump, erase a user."""

import contextlib
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from service.state import store as state_store
from service.state.address import parse_address
from service.state.commands import main
from service.state.engine import Key, Value
from service.state.entities import User
from service.state.lmdb_engine import LmdbEngine
from service.state.redis_engine import RedisEngine
from tests.support.processes import poll
from tests.support.redis_servers import redis_server
from tests.support.servers import fresh

ROOT = Path(__file__).parents[3]
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
USERS = [f"u{number}" for number in range(5)]


def command(*arguments):
    """Run a command of the store as an operator does: LMDB opens a file once in each process."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "state", *arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def client_of(session, address):
    with (
        fresh(session, state=address, state_timeout_ms=10_000) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


class Writer:
    """A caller that sends events one after the other, and counts those that were acknowledged."""

    def __init__(self, client):
        self._client = client
        self._sent, self.acknowledged = 0, dict.fromkeys(USERS, 0)

    def send(self, events):
        for _ in range(events):
            user = USERS[self._sent % len(USERS)]
            event = {"event_id": f"e{self._sent}", "user": user, "item": "260", "type": "like"}
            answer = self._client.post("/feedback", json={"events": [event]}).raise_for_status()
            assert answer.json()["accepted"] == 1
            self._sent += 1
            self.acknowledged[user] += 1

    def move(self, client):
        self._client = client


def counts_of(client):
    """Return the answers that each user has."""
    users = {user: client.get(f"/users/{user}").raise_for_status().json() for user in USERS}
    return {user: len(record["history"]["id"]) for user, record in users.items()}


def rank(client, user="u1"):
    body = {"user": {"id": user}, "candidates": ["1", "296", "318"], "explain": True}
    return client.post("/rerank", json=body).raise_for_status().json()


@contextlib.contextmanager
def ranking(client, responses):
    """Rank all the time on a thread, and keep the responses."""
    stop = threading.Event()

    def loop():
        with httpx.Client(base_url=client.base_url, timeout=30) as caller:
            while not stop.is_set():
                responses.append(rank(caller))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def test_a_move_to_valkey_under_rankings_loses_nothing_while_writers_pause(session, tmp_path):
    lmdb, file = f"lmdb://{tmp_path}/state", str(tmp_path / "all.msgpack")
    responses: list[dict] = []
    with redis_server("valkey", tmp_path / "server", *DURABLE) as server:
        valkey = f"redis://127.0.0.1:{server.port}/0"
        with client_of(session, lmdb) as old, ranking(old, responses):
            writer = Writer(old)
            writer.send(12)
            command("dump", file, "--state", lmdb)
            assert main(["load", file, "--state", valkey]) == 0
            with client_of(session, valkey) as new, ranking(new, responses):
                assert poll(lambda: new.get("/readyz").json()["state"] == "up", 30)
                writer.move(new)
                writer.send(7)
                assert counts_of(new) == writer.acknowledged
    assert len(responses) > 2
    assert [each["degraded"] for each in responses] == [None] * len(responses)
    assert {each["state"]["user"] for each in responses} <= {"hit", "miss"}


def test_a_write_after_the_dump_is_missing_from_the_new_store(tmp_path):
    """The twin of the test above: the pause is needed."""
    lmdb, file = f"lmdb://{tmp_path}/state", str(tmp_path / "all.msgpack")
    for user, dumped in (("before", True), ("after", False)):
        engine = LmdbEngine(tmp_path / "state")
        engine.put_many([(Key("user", user), Value(User().to_blob()))])
        engine.close()
        if dumped:
            assert main(["dump", file, "--state", lmdb]) == 0
    with redis_server("valkey", tmp_path / "server") as server:
        valkey = f"redis://127.0.0.1:{server.port}/0"
        assert main(["load", file, "--state", valkey]) == 0
        with contextlib.closing(RedisEngine(parse_address(valkey))) as target:
            blobs = target.get_many([Key("user", "before"), Key("user", "after")])
    assert [blob is None for blob in blobs] == [False, True]


def test_a_broken_store_is_restored_from_a_dump_under_the_service(session, tmp_path, monkeypatch):
    monkeypatch.setattr(state_store, "CHECK_S", 0.05)
    state, file = f"lmdb://{tmp_path}/state", str(tmp_path / "all.msgpack.gz")
    with client_of(session, state) as client:
        writer = Writer(client)
        writer.send(10)
        command("dump", file, "--state", state)
        shutil.rmtree(tmp_path / "state")
        assert poll(lambda: rank(client)["state"]["user"] == "miss", 30)
        command("load", file, "--state", state)
        assert counts_of(client) == writer.acknowledged
        assert rank(client)["degraded"] is None


def test_an_erased_user_is_gone_from_rankings_at_once_and_from_the_files_after_a_compaction(
    session, tmp_path
):
    with redis_server("valkey", tmp_path / "server", *DURABLE) as server:
        for state, files, delete in (
            (f"lmdb://{tmp_path}/state", tmp_path / "state", command),
            (f"redis://127.0.0.1:{server.port}/0", tmp_path / "server", lambda *a: main(a)),
        ):
            with client_of(session, state) as client:
                event = {"event_id": "e1", "user": "secret-user", "item": "260", "type": "like"}
                client.post("/feedback", json={"events": [event]}).raise_for_status()
                assert holds(files, b"secret-user")
                assert rank(client, "secret-user")["state"]["user"] == "hit"
                delete("delete", "--state", state, "--user", "secret-user")
                assert rank(client, "secret-user")["state"]["user"] == "miss"
            assert main(["compact", "--state", state]) == 0
            assert poll(lambda files=files: not holds(files, b"secret-user"), 30), state


def holds(directory, text):
    """Tell if a file of the store has the text.

    Closing lock.mdb in the process of the service would release the locks of LMDB.
    """
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed by a rewrite meanwhile
            if (
                path.is_file()
                and path.name not in ("log", "lock.mdb")
                and text in path.read_bytes()
            ):
                return True
    return False


def test_the_commands_of_the_operators_page_are_those_of_the_store():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"python -m service state (\w+)", page))
    assert commands == {"load", "dump", "delete", "compact", "stats"}
