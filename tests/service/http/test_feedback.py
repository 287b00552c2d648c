"""POST /feedback over HTTP: outcomes, refusals, read-your-writes, retries, full and lost stores."""

import contextlib
import threading
import time

import httpx
import ormsgpack
import pytest

from service.state import writer
from service.state.engine import Key
from service.state.entities import User
from service.state.errors import StateFull, StateUnavailable
from service.state.events import FIELDS
from service.state.lmdb_engine import LmdbEngine
from tests.support.processes import total
from tests.support.redis_servers import redis_server
from tests.support.servers import fresh

NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def service(session, tmp_path_factory):
    """A client of a service with an LMDB store."""
    directory = tmp_path_factory.mktemp("state")
    with (
        fresh(session, state=f"lmdb://{directory}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def event_of(number, user="u1", kind="like", displayed=None, **more):
    event = {"event_id": f"e{number}", "user": user, "item": "260", "type": kind, **more}
    return event if displayed is None else {**event, "shown": displayed}


def send(client, *events, **options):
    return client.post("/feedback", json={"events": list(events)}, **options)


def history_used(client, user):
    body = {"user": {"id": user}, "candidates": ["1", "296", "318"], "explain": True}
    return client.post("/rerank", json=body).raise_for_status().json()["state"]["history"]


def test_an_event_is_in_the_next_ranking_and_counts_once(service):
    assert history_used(service, "ryw") == 0
    events = [event_of(1, "ryw"), event_of(2, "ryw", "pass", item="296", time=NOW)]
    assert send(service, *events).raise_for_status().json() == {
        "accepted": 2, "duplicates": 0, "refused": [],
    }  # fmt: skip
    assert history_used(service, "ryw") == 2
    again = send(service, *events, event_of(3, "ryw"), event_of(3, "ryw")).json()
    assert again == {"accepted": 1, "duplicates": 3, "refused": []}
    assert history_used(service, "ryw") == 3


def test_of_two_events_with_one_id_the_first_counts_in_one_call_as_in_two(service):
    first, other = event_of(1, "reused"), event_of(1, "reused", item="296")
    expected = {"accepted": 1, "duplicates": 1, "refused": []}
    assert send(service, first, other).raise_for_status().json() == expected
    assert send(service, other).json() == {"accepted": 0, "duplicates": 1, "refused": []}
    assert history_used(service, "reused") == 1


def test_a_like_changes_the_slate_of_the_user_alone(service, items):
    def slate(user):
        body = {"user": {"id": user}, "candidates": items[20:60]}
        return [e["id"] for e in service.post("/rerank", json=body).json()["slate"]]

    before = slate("changed")
    send(service, *(event_of(n, "changed", item=items[40 + n]) for n in range(6)))
    assert slate("changed") != before
    assert slate("someone else") == before


def test_bad_events_are_refused_alone_and_good_ones_are_kept(service):
    events = [
        event_of(10, "partly"),
        event_of(11, "partly", "lik"),
        {"event_id": 12, "user": "partly", "item": "1"},
        7,
        event_of(13, "partly", time=1 << 60),
        event_of(14, "partly", displayed=["1", ""]),
        event_of(15, "partly", displayed=["1", "2"]),
    ]
    response = send(service, *events).raise_for_status().json()
    assert (response["accepted"], response["duplicates"]) == (2, 0)
    assert response["refused"][0] == {
        "index": 1, "event_id": "e11", "field": "events[1].type", "rule": "one of like, pass",
        "value": '"lik"',
    }  # fmt: skip
    places = [(each["index"], each["event_id"], each["field"]) for each in response["refused"]]
    assert places[1:] == [
        (2, 12, "events[2].type"),
        (3, None, "events[3]"),
        (4, "e13", "events[4].time"),
        (5, "e14", "events[5].shown[1]"),
    ]
    assert history_used(service, "partly") == 4


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ([], "body"),
        ({}, "events"),
        ({"events": []}, "events"),
        ({"events": {}}, "events"),
        ({"events": [1] * 1001}, "events"),
        ({"events": [1], "user": "u1"}, "user"),
    ],
)
def test_a_body_that_is_wrong_as_a_whole_is_a_problem(service, payload, field):
    response = service.post("/v1/feedback", json=payload)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["field"] == field


def test_a_body_that_is_no_json_is_a_problem(service):
    response = service.post("/feedback", content=b"{")
    assert (response.status_code, response.json()["code"]) == (400, "bad_json")
    repeated = b'{"events": [{"event_id": "1", "event_id": "2"}]}'
    assert service.post("/feedback", content=repeated).status_code == 422
    assert service.get("/feedback").status_code == 405
    large = send(service, event_of(1, displayed=["1" * 200] * 1000), *[event_of(1)] * 900, *[])
    assert large.status_code == 200
    assert send(service, *[event_of(1, displayed=["1" * 250] * 900)] * 5).status_code == 413


def test_messagepack_is_read_and_answered(service):
    body = ormsgpack.packb({"events": [event_of(1, 77), event_of(1, "77"), {"event_id": 5}]})
    headers = {"content-type": "application/msgpack"}
    response = service.post("/feedback", content=body, headers=headers).raise_for_status()
    content = ormsgpack.unpackb(response.content)
    assert (content["accepted"], content["duplicates"]) == (1, 1)
    assert content["refused"][0]["event_id"] == 5


def test_ids_beyond_64_bits_are_read_exactly(service):
    big = 1 << 80
    first = send(service, event_of(1, big), event_of(1, big + 1), {"event_id": big}).json()
    assert (first["accepted"], first["refused"][0]["event_id"]) == (2, big)
    assert history_used(service, big) == 1


def test_the_state_of_info_has_types_and_window(service):
    state = service.get("/info").json()["state"]
    assert state["durable"] is True
    assert state["events"] == {
        "types": {
            "like": {"label": 1.0, "weight": 1.0, "show": True},
            "pass": {"label": 0.0, "weight": 1.0, "show": True},
        },
        "window_s": 86400.0,
    }


def test_the_openapi_document_describes_the_route_where_it_exists(service, client):
    document = service.get("/openapi.json").json()
    operation = document["paths"]["/v1/feedback"]["post"]
    assert {"200", "400", "422", "503", "507"} < operation["responses"].keys()
    assert "429" not in operation["responses"]
    fields = document["components"]["schemas"]["FeedbackEvent"]["properties"]
    assert set(fields) == FIELDS
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert service.post("/feedback", json=example).json()["accepted"] == len(example["events"])
    assert "/feedback" not in client.get("/openapi.json").json()["paths"]


def test_metrics_count_events_by_outcome_and_commits(service):
    def counts():
        page = service.get("/metrics").text
        names = [f'events_total{{outcome="{o}"}}' for o in ("accepted", "duplicate", "refused")]
        names += ["commit_events_sum", "commit_duration_seconds_count"]
        lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if "rerank_feedback" in line)
        return [float(lines[f"rerank_feedback_{name}"]) for name in names]

    before = counts()
    send(service, event_of(1, "counted"), event_of(1, "counted"), event_of(2, "counted", "no"))
    assert [now - old for now, old in zip(counts(), before, strict=True)] == [1, 1, 1, 2, 1]
    assert total(service.get("/metrics").text, "rerank_feedback_waiting") == 0


def test_a_hundred_concurrent_writers_of_one_user_lose_nothing(service):
    outcomes = sent_at_once([service] * 100, "busy")
    assert sum(outcome["accepted"] for outcome in outcomes) == 101
    assert sum(outcome["duplicates"] for outcome in outcomes) == 99
    assert history_used(service, "busy") == 101


def sent_at_once(clients, user):
    """Send an event of each client, and one that is the same for all, from a thread each."""
    failures, outcomes = [], []

    def write(number, client):
        try:
            events = [event_of(number, user), event_of("same", user)]
            outcomes.append(send(client, *events).raise_for_status().json())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=each) for each in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    return outcomes


def test_writers_at_two_instances_overtake_each_other_and_lose_nothing(session, tmp_path):
    with redis_server("valkey", tmp_path) as server, contextlib.ExitStack() as stack:
        state = f"redis://127.0.0.1:{server.port}/0"
        settings = {"state": state, "state_timeout_ms": 10_000}
        clients = []
        for _ in range(2):
            url = stack.enter_context(fresh(session, **settings))
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=60)))
        outcomes = sent_at_once(clients * 50, "busy")
        assert sum(outcome["accepted"] for outcome in outcomes) == 101
        assert history_used(clients[0], "busy") == 101


def test_without_a_store_there_is_no_route(client):
    assert send(client, event_of(1)).status_code == 404


def test_a_key_of_ranking_is_needed(session, tmp_path):
    (tmp_path / "keys").write_text("shop:a-key-of-more-than-16\n")
    settings = {"state": f"lmdb://{tmp_path}/state", "api_keys_file": tmp_path / "keys"}
    with fresh(session, **settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert send(client, event_of(1)).status_code == 401
        headers = {"Authorization": "Bearer a-key-of-more-than-16"}
        assert send(client, event_of(1), headers=headers).json()["accepted"] == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StateFull("full"), 507, "state_full"),
        (StateUnavailable("down"), 503, "state_unavailable"),
        (ZeroDivisionError("fault"), 500, "internal_error"),
    ],
)
def test_nothing_is_acknowledged_that_was_not_kept(
    session, tmp_path, monkeypatch, error, status, code
):
    update_many = LmdbEngine.update_many
    failing = threading.Event()

    def update(self, *arguments):
        if failing.is_set():
            raise error
        return update_many(self, *arguments)

    monkeypatch.setattr(LmdbEngine, "update_many", update)
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        failing.set()
        response = send(client, event_of(1))
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert ("retry-after" in response.headers) == (status == 503)
        failing.clear()
        assert send(client, event_of(1)).json()["accepted"] == 1


def test_more_events_than_the_store_keeps_up_with_are_refused_and_can_be_sent_again(
    session, tmp_path, monkeypatch
):
    monkeypatch.setattr(writer, "MAX_WAITING", 4)
    update_many, entered, released = LmdbEngine.update_many, threading.Event(), threading.Event()

    def update(self, *arguments):
        entered.set()
        assert released.wait(30)
        return update_many(self, *arguments)

    monkeypatch.setattr(LmdbEngine, "update_many", update)
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        answers = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(send(client, event_of(n))))
            for n in range(3)
        ]
        threads[0].start()
        assert entered.wait(30)  # the first is being written, and the next two wait
        for thread in threads[1:]:
            thread.start()
        deadline = time.monotonic() + 30
        while total(client.get("/metrics").text, "rerank_feedback_waiting") < 3:
            assert time.monotonic() < deadline
        refused = send(client, event_of(9))
        assert (refused.status_code, refused.json()["code"]) == (503, "overload")
        assert refused.headers["retry-after"] == "1"
        released.set()
        for thread in threads:
            thread.join(30)
        assert [answer.json()["accepted"] for answer in answers] == [1, 1, 1]
        assert send(client, event_of(9)).json()["accepted"] == 1


def test_events_of_a_client_that_leaves_are_kept_and_a_stop_flushes(session, tmp_path, monkeypatch):
    update_many, entered = LmdbEngine.update_many, threading.Event()

    def update(self, *arguments):
        entered.set()
        time.sleep(0.5)
        return update_many(self, *arguments)

    monkeypatch.setattr(LmdbEngine, "update_many", update)
    with fresh(session, state=f"lmdb://{tmp_path}") as url:
        for number in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{url}/feedback", json={"events": [event_of(number)]},
                    timeout=httpx.Timeout(30, read=0.05),
                )  # fmt: skip
        assert entered.wait(30)
    engine = LmdbEngine(tmp_path)
    blob = engine.get_many([Key("user", "u1")])[0]
    engine.close()
    assert blob is not None
    assert len(User.from_blob(blob).answers.items) == 2
