"""Users, items and events: the calls without a fallback."""

import time

import pytest

from rerank_client import FeedbackResult, PutResult, Refused, RefusedRecord, TimedOut, Unavailable
from rerank_client.errors import Failed
from rerank_client.state_calls import BATCH
from tests.support.scripted import CUT, HANG, RESET, reply, scripted
from tests.support.servers import fresh

KEY, STATE_KEY = "ranking-key-0123456", "state-key-012345678"


@pytest.fixture(scope="module")
def address(session, tmp_path_factory):
    """The URL of a service with a store and with keys of both kinds."""
    directory = tmp_path_factory.mktemp("state")
    (directory / "keys").write_text(f"shop:{KEY}\n")
    (directory / "state-keys").write_text(f"feed:{STATE_KEY}\n")
    with fresh(
        session,
        state=f"lmdb://{directory}/state",
        api_keys_file=directory / "keys",
        state_keys_file=directory / "state-keys",
    ) as url:
        yield url


def test_users_are_written_read_ranked_and_forgotten(connect, address, items):
    client = connect(address, api_key=KEY, state_key=STATE_KEY)
    records = [{"user": "a/ü.", "history": items[:2]}, {"user": 5, "history": items[2:3]}]
    assert client.put_users(records) == PutResult(2, 0, ())
    record = client.get_user("a/ü.")
    assert (record["user"], record["history"]["id"]) == ("a/ü.", items[:2])
    ranked = client.rerank(items[20:40], user={"id": 5.0}, explain=True)
    assert ranked.raw["state"]["history"] == 1
    for _ in range(2):
        assert client.forget("a/ü.") is None
    assert client.get_user("a/ü.") is None
    assert client.get_user("5") is not None


@pytest.mark.parametrize("user", [".", "..", "a?b#c", "%2F", " a ", 7, "/"])
def test_every_id_of_a_user_can_be_in_a_path(connect, address, user):
    client = connect(address, state_key=STATE_KEY)
    client.put_users([{"user": user}])
    assert client.get_user(user)["user"] == str(user).strip()
    client.forget(user)
    assert client.get_user(user) is None


def test_refused_records_are_named_by_their_place_over_all_requests(connect, address):
    client = connect(address, state_key=STATE_KEY)
    records: list[dict[str, object]] = [{"item": str(n)} for n in range(2 * BATCH + 1)]
    records[3] = {"item": "3", "features": {"nosuch": 1}}
    records[BATCH + 4] = {"item": "4", "x": "é\n"}
    result = client.put_items(records)
    assert (result.written, result.refused_count) == (2 * BATCH - 1, 2)
    assert [entry.index for entry in result.refused] == [3, BATCH + 4]
    assert result.refused[1].field == "x"
    assert client.put_items(records[3:4], check=False) == PutResult(1, 0, ())


def test_keys_of_rankings_do_not_open_the_store_and_the_reverse(connect, address):
    for client in (connect(address, api_key=KEY), connect(address, state_key=KEY)):
        with pytest.raises(Refused, match="403 forbidden"):
            client.get_user("a")
    with pytest.raises(Refused, match="401 unauthorized"):
        connect(address, state_key=STATE_KEY).rerank(["1", "2"])
    assert STATE_KEY not in repr(connect(address, state_key=STATE_KEY))


def test_a_service_without_a_store_refuses_instead_of_having_no_user(connect, url):
    with pytest.raises(Refused, match="404 not_found"):
        connect(url).get_user("a")


ACCEPTED = {"accepted": 1, "duplicates": 0, "refused": []}


def kept(body, request_id):
    return reply(200, {**ACCEPTED, "accepted": len(body["events"])}, X_Request_ID=request_id)


@pytest.mark.parametrize("failure", [RESET, reply(503, Retry_After="0")])
def test_every_attempt_sends_the_same_ids_of_events(connect, failure):
    events = [{"user": "u", "item": "i", "type": "like"}, {"event_id": "mine", "item": 5}]
    with scripted(failure, kept) as server:
        assert connect([server.url] * 2).feedback(events) == FeedbackResult(2, 0, ())
    (_, first), (_, second) = server.requests
    assert first == second
    assert first["events"][1] == events[1]
    assert len(first["events"][0].pop("event_id")) == 32
    assert first["events"][0] == events[0]


def test_two_calls_make_different_ids(connect):
    with scripted(kept) as server:
        client = connect(server.url)
        for _ in range(2):
            client.feedback([{"item": "i"}])
    ids = [body["events"][0]["event_id"] for _, body in server.requests]
    assert len(set(ids)) == 2


def test_feedback_of_many_events_is_sent_in_parts_and_added_up(connect):
    refused = {"index": 1, "event_id": "e", "field": "events[1].type", "rule": "r", "value": "v"}

    def answer(body, request_id):
        content = {"accepted": len(body["events"]) - 1, "duplicates": 1, "refused": [refused]}
        return reply(200, content, X_Request_ID=request_id)

    with scripted(answer) as server:
        result = connect(server.url).feedback([{"item": "i"}] * (BATCH + 2))
    assert [len(body["events"]) for _, body in server.requests] == [BATCH, 2]
    entries = [RefusedRecord(index, "events[1].type", "r", "v") for index in (1, BATCH + 1)]
    assert result == FeedbackResult(BATCH, 2, tuple(entries))
    assert connect(server.url).feedback([]) == FeedbackResult(0, 0, ())


@pytest.mark.parametrize(
    ("action", "error", "reason"),
    [
        (HANG, TimedOut, "timeout"),
        (RESET, Unavailable, "unavailable"),
        (CUT, Failed, "broken answer"),
        (reply(507), Failed, "status 507"),
        (reply(200, ACCEPTED, X_Request_ID="other"), Failed, "foreign answer"),
        (lambda body, sent_id: reply(200, {}, X_Request_ID=sent_id), Failed, "unreadable answer"),
        (
            lambda body, sent_id: reply(200, b"no", X_Request_ID=sent_id),
            Failed,
            "unreadable answer",
        ),
    ],
)
def test_a_failure_is_raised_although_rankings_have_a_fallback(connect, action, error, reason):
    with scripted(action) as server:
        client = connect(server.url)
        began = time.monotonic()
        with pytest.raises(error) as raised:
            client.feedback([{"item": "i"}], timeout_ms=500 if action == HANG else None)
        assert raised.value.reason == reason
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.feedback([5]), r"events\[0\]: must be a mapping"),
        (lambda client: client.feedback({}), "events: must be a list of mappings"),
        (
            lambda client: client.put_items([{"item": "a"}, {"item": {1}}]),
            r"records\[1\].item",
        ),
        (
            lambda client: client.put_users([{"user": "a"}], timeout_ms=0),
            "timeout_ms: must",
        ),
        (lambda client: client.get_user(" "), "user: must not be blank"),
        (lambda client: client.forget(None), "user: must be an id"),
    ],
)
def test_values_that_cannot_be_sent_are_errors_before_a_request(connect, down, call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(connect(down))
