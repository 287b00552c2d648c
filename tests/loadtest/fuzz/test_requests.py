"""Fuzzed requests are drawn by seed, in every kind, and arrive as they were drawn."""

import json

import pytest
from hypothesis import strategies as st

from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.heads import PARTS, enlarged
from loadtest.fuzz.ids import canonical, float_id, integer_id, is_id, with_ids
from loadtest.fuzz.json_text import ambiguous_key, wrong_field
from loadtest.fuzz.messages import Conversation, Manner, Message
from loadtest.fuzz.requests import FromBundle, draw_conversations
from loadtest.fuzz.run import BLOCK, plan
from loadtest.fuzz.variants import optional_fields, with_nulls
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.servers import application


@pytest.fixture(scope="module")
def document():
    return application(Session.load(BUNDLE)).openapi()


@pytest.fixture(scope="module")
def drawn(document):
    """Return 60 messages of every kind."""
    kinds = FromBundle(Bundle.read(BUNDLE), optional_fields(document)).kinds()
    return {kind: draw_conversations(strategy, kind, 60) for kind, (strategy, _) in kinds.items()}


def messages(conversations):
    return [message for one in conversations for message in one.messages]


def test_every_kind_is_drawn_in_the_requested_number(drawn):
    assert {kind: len(messages(many)) for kind, many in drawn.items()} == dict.fromkeys(drawn, 60)
    for manner in set(Manner) - {Manner.ALONE, Manner.STORED, Manner.REPEATED}:
        assert {one.manner for one in drawn[manner]} == {manner}
    assert sum(ambiguous_key(one.body) is not None for one in messages(drawn["with_repeated_key"]))
    assert any(len(one.wire()) > 60_000 for one in messages(drawn["with_padded_head"]))
    assert any(one.method == "HEAD" for one in messages(drawn["with_target"]))
    assert all(one.header("accept") for one in messages(drawn["negotiated"]))


def test_the_same_key_draws_the_same_conversations():
    strategy = FromBundle(Bundle.read(BUNDLE), {}).kinds()["pipelined"][0]
    first, again, other = (draw_conversations(strategy, key, 30) for key in "aab")
    assert first == again != other


def test_few_values_are_repeated_until_there_are_enough():
    alone = st.sampled_from("ab").map(lambda x: Conversation((Message("GET", x, (), b""),)))
    assert len(draw_conversations(alone, "0", 20)) == 20


@pytest.mark.parametrize("count", [1, 7, 300, BLOCK + 1, 2 * BLOCK])
def test_half_of_the_planned_requests_are_from_the_document(count):
    weights = {"valid": 3, "twins": 1}
    tasks = list(plan(weights, 0, count))
    sizes = {kind: sum(n for k, _, n in tasks if k == kind) for kind in (*weights, "document")}
    assert sum(sizes.values()) == count
    assert abs(sizes["document"] - count / 2) <= 1
    assert abs(sizes["valid"] - 3 * count / 8) <= 1
    assert len({key for _, key, _ in tasks}) == len(tasks)


@pytest.mark.parametrize("part", PARTS)
def test_an_enlarged_part_makes_the_request_longer_and_keeps_its_body(part):
    message = enlarged(Message("POST", "/rerank", (), b"x" * 100), part, 30_000, 10)
    assert len(message.wire()) > 30_000
    assert message.body == b"x" * 100
    if part == "extensions":
        assert message.chunks() == 11


def test_a_message_is_written_with_its_framing():
    message = Message(
        "POST", "/x", (("A", "b"),), b"abc", chunked=True, chunk=2, extension=";e",
        trailers=(("T", "u"),),
    )  # fmt: skip
    assert message.wire() == (
        b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2;e\r\nab\r\n1;e\r\nc\r\n0;e\r\nT: u\r\n\r\n"
    )
    plain = Message("POST", "/x", (), b"abc", chunked=True, version="1.0", host=False)
    assert plain.wire() == b"POST /x HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc"


def test_ids_keep_their_canonical_text():
    texts = ["1", "9007199254740993", "-1", "01", "1.0", "x", "18446744073709551616"]
    assert [integer_id(text) for text in texts] == [
        1, 9007199254740993, -1, "01", "1.0", "x", "18446744073709551616",
    ]  # fmt: skip
    assert float_id("9007199254740993") == 9007199254740993
    assert isinstance(float_id("5"), float)
    for text in texts:
        assert canonical(integer_id(text)) == canonical(float_id(text)) == text
    assert [is_id(value) for value in (True, 1.5, None, " ", 2.0, 1, " x")] == [
        False, False, False, False, True, True, True,
    ]  # fmt: skip


def test_ids_are_converted_wherever_they_stand():
    body = {
        "candidates": {"id": ["1", "x"]},
        "user": {"id": "2", "history": ["3", {"id": "4", "label": 1}]},
        "constraints": {"blocked": ["5"], "pinned": {"1": 0}},
    }
    assert with_ids(body, integer_id) == {
        "candidates": {"id": [1, "x"]},
        "user": {"id": 2, "history": [3, {"id": 4, "label": 1}]},
        "constraints": {"blocked": [5], "pinned": {"1": 0}},
    }
    assert body["candidates"] == {"id": ["1", "x"]}


def test_every_optional_field_of_the_document_gets_a_null(document):
    body = {"candidates": [{"id": "1"}, "2"], "user": {"history": [{"id": "3"}]}, "constraints": {}}
    filled = with_nulls(body, optional_fields(document))
    assert filled["candidates"][0].items() >= {"features": None, "groups": None}.items()
    assert filled["candidates"][1] == "2"
    assert filled["user"]["history"] == [{"id": "3", "label": None, "features": None}]
    assert filled["constraints"] == {"pinned": None, "blocked": None, "max_per_group": None}
    assert filled["timeout_ms"] is None
    assert filled["user"]["id"] is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('{"a": 1, "\\u0061": 2}', "a"),
        ('[{"b": {"c": [], "c": [1]}}]', "c"),
        ('{"a": 1, "a": 1}', None),
        ('{"a": {"b": 1}, "c": {"b": 2}}', None),
    ],
)
def test_a_key_with_two_values_is_ambiguous(text, key):
    assert ambiguous_key(text.encode()) == key


@pytest.mark.parametrize(
    ("field", "right"),
    [
        ("candidates[1]", True),
        ("candidates[2]", False),
        ("candidates[1].id", False),
        ("user.features.age", True),
        ("user.history[0].id", False),
        ("slate_size", True),
        ("header X-Request-Timeout-Ms", True),
        ("body", True),
        ("context.packed[1]", True),
        ("context.packed[2]", False),
        ("context.broken[0]", False),
    ],
)
def test_the_path_of_an_error_must_lead_through_the_body(field, right):
    context = {"packed": {"shape": [2], "data": b"12345678"}, "broken": {"shape": [None]}}
    payload = {"candidates": ["1", "1"], "user": {"features": {}}, "context": context}
    assert (wrong_field(field, payload) is None) == right


def test_a_body_whose_keys_make_paths_ambiguous_is_not_judged():
    payload = json.loads('{"a.b": 1}')
    assert wrong_field("x.y", payload) is None
