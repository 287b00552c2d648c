"""Conversations about the entity store are distinct, and every check of them reports a mistake."""

import json
import re
from dataclasses import replace

import ormsgpack
import pytest

from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.entities import PLACE, FromStore, written_ids
from loadtest.fuzz.entity_checks import entity, repeated, schema_of, stored
from loadtest.fuzz.messages import MSGPACK, Message, Response
from loadtest.fuzz.requests import draw_conversations
from tests.support.bundles import BUNDLE

NDJSON = (("Content-Type", "application/x-ndjson"),)
PACKED = (("Content-Type", MSGPACK),)
LINES = b'{"user": "a"}\n\n{"user": 5}\n \n5'


@pytest.fixture(scope="module")
def strategies():
    return FromStore(Bundle.read(BUNDLE)).kinds()


def json_response(status, content):
    return Response(status, {"content-type": "application/json"}, json.dumps(content).encode())


@pytest.mark.parametrize("kind", ["stored", "uploads", "events"])
def test_conversations_repeat_with_their_seed_and_share_no_id_with_others(strategies, kind):
    strategy, _ = strategies[kind]
    drawn, again, others = (draw_conversations(strategy, key, 24) for key in ("a", "a", "b"))
    assert drawn == again
    assert sum(len(one.messages) for one in drawn) == 24
    bodies = [b"".join(m.body for m in one.messages) for one in drawn + others]
    assert PLACE.encode() not in b"".join(bodies)
    identifiers = [{body[i : i + 16] for i in places(body)} for body in bodies]
    assert sum(map(len, identifiers)) == len(set().union(*identifiers)) >= 12
    assert {len(entry) for entry in identifiers} <= {0, 1}


def places(body):
    """Yield the places of ids that replaced PLACE: a z and 15 hexadecimal digits."""
    start = body.find(b"z")
    while start >= 0:
        if set(body[start + 1 : start + 16]) <= set(b"0123456789abcdef"):
            yield start
        start = body.find(b"z", start + 1)


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("POST", "/v1/feedback", "FeedbackResponse"),
        ("PUT", "/users?check=false", "PutResponse"),
        ("GET", "/v1/items/a", "ItemRecord"),
        ("GET", "/items", None),
        ("DELETE", "/items/a", None),
        ("POST", "/rerank", None),
    ],
)
def test_a_response_is_held_against_the_schema_of_its_route(method, target, name):
    assert schema_of(Message(method, target, (), b"")) == name


def refusal(line, rule="r"):
    return {"line": line, "field": "f", "rule": rule, "value": "v"}


PUT = Message("PUT", "/users", NDJSON, LINES)
EVENT = {"user": "u", "item": "i"}
FEEDBACK = Message("POST", "/feedback", (), json.dumps({"events": [EVENT] * 2}).encode())
REFUSED = {"index": 1, "field": "events[1].type", "rule": "r", "value": "v"}


@pytest.mark.parametrize(
    ("message", "content", "wrong"),
    [
        (PUT, (2, 1, [refusal(5)]), None),
        (PUT, (2, 0, []), "2 records counted of 3"),
        (PUT, (2, 1, []), "0 refused records are named of 1"),
        (PUT, (2, 1, [refusal(2)]), r"lines \[2\] are refused"),
        (PUT, (1, 2, [refusal(5), refusal(3)]), "without order"),
        (PUT, (2, 1, [refusal(5, "")]), "without order or rule"),
        (replace(PUT, headers=PACKED), (7, 0, []), None),
        (Message("PUT", "/users", (("Content-Type", "application/json"),), b"[1, 2]"),
         (1, 0, []), "1 records counted of 2"),
    ],
)  # fmt: skip
def test_records_that_are_not_counted_once_are_reported(message, content, wrong):
    written, count, refused = content
    error = entity(message, {"written": written, "refused_count": count, "refused": refused})
    assert (error is None) if wrong is None else re.search(wrong, error or "")


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ((1, 1, []), False),
        ((1, 0, [REFUSED]), False),
        ((1, 0, []), True),
        ((1, 1, [REFUSED]), True),
        ((1, 0, [{**REFUSED, "index": 0}]), True),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_events_that_are_not_counted_once_are_reported(content, wrong, packed):
    accepted, duplicates, refused = content
    message = FEEDBACK
    if packed:
        body = ormsgpack.packb(json.loads(FEEDBACK.body))
        message = replace(FEEDBACK, headers=PACKED, body=body)
    answer = {"accepted": accepted, "duplicates": duplicates, "refused": refused}
    assert (entity(message, answer) is not None) is wrong


@pytest.mark.parametrize(
    ("target", "item", "wrong"),
    [("/items/a%2F", "a/", False), ("/v1/items/a/", "a", False), ("/items/a", "b", True)],
)
def test_the_record_of_another_item_is_reported(target, item, wrong):
    error = entity(Message("GET", target, (), b""), {"item": item})
    assert (error is not None) is wrong


RECORD = {"user": "u", "history": ["a", {"id": 5, "label": 0.1}]}
HISTORY = {"id": ["a", "5"], "label": [1.0, 0.10000000149011612]}
READ = {"user": "u", "features": {}, "history": HISTORY}
GONE = {"code": "unknown_entity"}


@pytest.mark.parametrize(
    ("statuses", "read", "gone", "wrong"),
    [
        ((200, 200, 204, 404), READ, GONE, False),
        ((200, 200), READ, GONE, False),
        ((200, 200, 204, 200), READ, GONE, True),
        ((200, 404, 204, 404), READ, GONE, True),
        ((200, 200, 204, 404), READ, {"code": "not_found"}, True),
        ((200, 200, 204, 404), {**READ, "features": {"x": 1}}, GONE, True),
        ((200, 200, 204, 404), {**READ, "history": {**HISTORY, "id": ["a", "6"]}}, GONE, True),
        ((200, 200, 204, 404), {**READ, "history": {**HISTORY, "label": [1.0, 0.2]}}, GONE, True),
    ],
)
def test_a_record_that_is_read_back_as_another_is_reported(statuses, read, gone, wrong):
    messages = (Message("PUT", "/users", NDJSON, json.dumps(RECORD).encode()),)
    contents: tuple[dict[str, object], ...] = ({}, read, {}, gone)
    responses = [json_response(*pair) for pair in zip(statuses, contents, strict=False)]
    assert (stored(messages, responses) is not None) is wrong


def test_counters_that_are_read_back_as_others_are_reported():
    record = {"item": "i", "counters": {"rate": {"shows": 2, "likes": 1, "time": 5}}}
    messages = (Message("PUT", "/items", PACKED, ormsgpack.packb(record)),)
    for counters, wrong in ((record["counters"], False), ({}, True)):
        content = {"item": "i", "features": {}, "counters": counters}
        responses = [json_response(200, {}), json_response(200, content)]
        assert (stored(messages, responses) is not None) is wrong


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        ((2, 0), (0, 2), False),
        ((2, 0), (1, 1), True),
        ((1, 1), (0, 2), True),
        ((2, 0), (0, 0), True),
    ],
)
def test_an_event_that_counts_twice_is_reported(first, second, wrong):
    responses = [
        json_response(200, {"accepted": accepted, "duplicates": duplicates, "refused": []})
        for accepted, duplicates in (first, second)
    ]
    assert (repeated((FEEDBACK, FEEDBACK), responses) is not None) is wrong
    assert repeated((FEEDBACK, FEEDBACK), responses[:1]) is None
    assert repeated((FEEDBACK, FEEDBACK), [responses[0], json_response(503, {})]) is not None


def test_items_that_a_request_may_have_written_are_noted():
    items = Message(
        "PUT", "/v1/items", NDJSON, b'no\n{"item": 5.0}\n{"item": [], "a": {"item": "b"}}'
    )
    assert set(written_ids(items)) == {"5", "b"}
    event = json.dumps({"events": [{**EVENT, "shown": [" x", None, 7]}, {"shown": 5}]}).encode()
    assert set(written_ids(Message("POST", "/feedback", (), event))) == {"i", "x", "7"}
    assert not set(written_ids(replace(items, target="/users")))
