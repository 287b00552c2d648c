"""Events over several processes: read-your-writes, kills, stores that are down, torn or full."""

import contextlib
import os
import random
import signal
import threading
import time

import httpx
import pytest

from loadtest.server import serving
from service.state.engine import Key
from service.state.entities import User
from service.state.lmdb_engine import LmdbEngine
from tests.support.bundles import BUNDLE
from tests.support.processes import both_serve, poll
from tests.support.redis_servers import redis_server
from tests.support.servers import fresh

CANDIDATES = ["1", "296", "318"]
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def event_of(number, user="u1"):
    return {"event_id": number, "user": user, "item": f"i{number}", "type": "like"}


def send(client, *events):
    return client.post("/feedback", json={"events": list(events)})


def history_used(client, user):
    body = {"user": {"id": user}, "candidates": CANDIDATES, "explain": True}
    return client.post("/rerank", json=body).raise_for_status().json()["state"]["history"]


def stale_reads(clients, tries, user="u1"):
    """Write and read over random connections, and count the rankings that lack an answer."""
    choose, stale = random.Random(0), 0
    for number in range(1, tries + 1):
        send(choose.choice(clients), event_of(number, user)).raise_for_status()
        stale += history_used(choose.choice(clients), user) != number
    return stale


def test_two_workers_rank_with_what_either_has_kept(tmp_path):
    # With eight connections in turn, both workers read and write.
    with (
        serving(
            BUNDLE, "--workers", "2", state=f"lmdb://{tmp_path}", state_timeout_ms=10_000,
            timeout_ms=60_000,
        ) as server,
        contextlib.ExitStack() as stack,
    ):  # fmt: skip
        assert poll(lambda: both_serve(server), 60)
        clients = [
            stack.enter_context(httpx.Client(base_url=server.url, timeout=30)) for _ in range(8)
        ]
        assert stale_reads(clients, 60) == 0


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_two_instances_on_one_server_rank_with_what_either_has_kept(session, tmp_path, name):
    with redis_server(name, tmp_path) as server, contextlib.ExitStack() as stack:
        settings = {
            "state": f"redis://127.0.0.1:{server.port}/0", "state_timeout_ms": 10_000,
        }  # fmt: skip
        urls = [stack.enter_context(fresh(session, **settings)) for _ in range(2)]
        one, two = (stack.enter_context(httpx.Client(base_url=url, timeout=30)) for url in urls)
        assert stale_reads([one, two], 20) == 0
        # An event that one has kept is a duplicate for the other.
        outcomes = [send(client, event_of(99), event_of(99)).json() for client in (one, two)]
        assert [outcome["duplicates"] for outcome in outcomes] == [1, 2]
        assert history_used(two, "u1") == 21


def test_a_repeated_event_counts_at_both_instances_if_they_have_stores_of_their_own(
    session, tmp_path
):
    """The twin of the tests above: without a common store, reads are stale."""
    with contextlib.ExitStack() as stack:
        clients = []
        for name in ("a", "b"):
            url = stack.enter_context(fresh(session, state=f"lmdb://{tmp_path}/{name}"))
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=30)))
        assert stale_reads(clients, 10) > 0


class Writers:
    """Threads that send events, a user each, and keep the numbers that were acknowledged."""

    def __init__(self, url, count):
        self.acknowledged: dict[str, list[int]] = {f"u{number}": [] for number in range(count)}
        self.sent = dict.fromkeys(self.acknowledged, 0)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(url, user)) for user in self.acknowledged
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, url, user):
        with httpx.Client(base_url=url, timeout=10) as client, contextlib.suppress(httpx.HTTPError):
            while not self._stopped.is_set() and self.sent[user] < 100:
                numbers = list(range(self.sent[user], self.sent[user] + 2))
                self.sent[user] += 2
                response = send(client, *(event_of(number, user) for number in numbers))
                assert response.raise_for_status().json()["accepted"] == 2
                self.acknowledged[user] += numbers

    def are_answered(self):
        return all(self.acknowledged.values())

    def stop(self):
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)


def histories(directory, users):
    engine = LmdbEngine(directory)
    blobs = engine.get_many([Key("user", user) for user in users])
    engine.close()
    return {
        user: [] if blob is None else list(User.from_blob(blob).answers.items)
        for user, blob in zip(users, blobs, strict=True)
    }


def test_every_acknowledged_event_outlives_kills_and_counts_once_when_it_is_sent_again(
    session, tmp_path
):
    with serving(BUNDLE, "--workers", "2", state=f"lmdb://{tmp_path}") as server:
        writers = Writers(server.url, 4)
        assert poll(writers.are_answered, 30)
        time.sleep(random.Random(7).uniform(0.0, 0.3))
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        writers.stop()
    kept = histories(tmp_path, writers.acknowledged)
    for user, numbers in writers.acknowledged.items():
        assert kept[user][: len(numbers)] == [f"i{number}" for number in numbers]
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        for user, count in writers.sent.items():  # again, acknowledged or not
            outcome = send(client, *(event_of(n, user) for n in range(count))).json()
            assert outcome["duplicates"] >= len(writers.acknowledged[user])
    kept = histories(tmp_path, writers.acknowledged)
    for user, count in writers.sent.items():
        assert kept[user] == [f"i{number}" for number in range(count)]


def test_a_store_that_was_down_takes_the_events_that_are_sent_again(session, tmp_path):
    with redis_server("valkey", tmp_path, *DURABLE) as server:
        state = f"redis://127.0.0.1:{server.port}/0"
        with (
            fresh(session, state=state, state_timeout_ms=10_000) as url,
            httpx.Client(base_url=url, timeout=30) as client,
        ):
            assert send(client, event_of(1)).json()["accepted"] == 1
            server.kill()
            refused = send(client, event_of(1), event_of(2))
            assert (refused.status_code, refused.json()["code"]) == (503, "state_unavailable")
            assert refused.headers["retry-after"] == "1"
            ranked = client.post("/rerank", json={"user": {"id": "u1"}, "candidates": CANDIDATES})
            assert ranked.json()["degraded"]["reasons"] == ["state"]
            server.start()
            again = send(client, event_of(1), event_of(2)).raise_for_status().json()
            assert (again["accepted"], again["duplicates"]) == (1, 1)
            assert poll(lambda: history_used(client, "u1") == 2, 30)


def test_a_torn_file_refuses_events_and_ranking_goes_on(session, tmp_path):
    with fresh(session, state=f"lmdb://{tmp_path}") as url:
        events = [event_of(number) for number in range(50)]
        httpx.post(f"{url}/feedback", json={"events": events}).raise_for_status()
    path = tmp_path / "data.mdb"
    os.truncate(path, path.stat().st_size // 2)
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        response = send(client, event_of(1))
        assert (response.status_code, response.json()["code"]) == (503, "state_unavailable")
        assert len(client.post("/rerank", json={"candidates": CANDIDATES}).json()["slate"]) == 3
        assert "was cut off" in client.get("/info").json()["state"]["problem"]


def test_a_full_store_refuses_events_and_keeps_those_before(session, tmp_path):
    with (
        fresh(session, state=f"lmdb://{tmp_path}", state_max_gb=0.5 / 1024) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        users = (f"u{number}" for number in range(10_000))
        kept = []
        while True:
            batch = [next(users) for _ in range(200)]
            response = send(client, *(event_of(1, user) for user in batch))
            if response.status_code != 200:
                break
            kept += batch
        assert (response.status_code, response.json()["code"]) == (507, "state_full")
        assert "retry-after" not in response.headers
        assert kept
        assert [history_used(client, user) for user in (kept[0], kept[-1])] == [1, 1]
        assert history_used(client, batch[0]) == 0
