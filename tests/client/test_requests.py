"""Checks of arguments: the error names the field, the rule and the value that was passed."""

import json
import math
import re
import uuid
from collections import OrderedDict, UserDict, UserList
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
import pytest

from rerank_client import AsyncClient, Client, Refused
from rerank_client.fallback import initial_ranking
from rerank_client.requests import build_batch_bodies, build_list_body, encode
from tests.support.scripted import reply, response_to, scripted

HUGE = 2**53 + 1  # the first integer that a double cannot hold
CIRCULAR: list = []
CIRCULAR.append(CIRCULAR)
NESTED: dict = {}
for _ in range(100_000):
    NESTED = {"a": NESTED}


def message(arguments, kind=TypeError):
    """Return the message of the exception that the client raises before it sends anything."""
    options = {"candidates": ["a"], **arguments}
    with Client("http://127.0.0.1:9") as client, pytest.raises(kind) as raised:
        client.rerank(options.pop("candidates"), **options)
    assert type(raised.value) is kind
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ({"candidates": None}, "candidates: must be a list of ids or mappings, got None"),
        ({"candidates": 7}, "candidates: must be a list of ids or mappings, got 7 of type int"),
        ({"candidates": b"ab"}, "candidates: must be a list of ids or mappings, got b'ab'"),
        ({"candidates": {"id": "a"}}, "candidates.id: must be a list of ids, got 'a' of type str"),
        ({"candidates": {"a": 1}}, "candidates.a: unknown column; must be one of id, score, feat"),
        ({"candidates": {"score": [1]}}, "candidates.id: missing; candidates are a list, or col"),
        ({"candidates": {"id": [1, 2.5]}}, "candidates.id[1]: must be an id, a string or an int"),
        ({"candidates": {"id": [1], "score": 3}}, "candidates.score: must be a list of values, g"),
        ({"candidates": {"id": [1], "features": []}}, "candidates.features: must be a mapping, g"),
        ({"candidates": {"id": [1], "features": {"x": "a"}}}, "candidates.features.x: must be a l"),
        ({"candidates": {"a"}}, "candidates: must be a list of ids or mappings, got {'a'} of"),
        ({"candidates": ["a", None]}, "candidates[1]: must be an id, a string or an integer, got "),
        ({"candidates": [True]}, "candidates[0]: must be an id, a string or an integer, got True"),
        ({"candidates": [1.5]}, "candidates[0]: must be an id, a string or an integer, got 1.5 of"),
        ({"candidates": [2.0**53]}, "candidates[0]: must be an id, a string or an integer, got 9"),
        ({"user": {"id": math.nan}}, "user.id: must be an id, a string or an integer, got nan of"),
        ({"candidates": [b"a"]}, "candidates[0]: must be an id, a string or an integer, got b'a'"),
        ({"candidates": [np.int64(3)]}, "candidates[0]: must be an id, a string or an integer, "),
        ({"candidates": [{"id": False}]}, "candidates[0].id: must be an id, a string or an"),
        ({"candidates": [{"features": {}}]}, "candidates[0].id: missing; a candidate is an id or"),
        ({"candidates": [{"id": 1, "groups": {"by": 2}}]}, "candidates[0].groups.by: must be a s"),
        ({"candidates": [{"id": 1, "groups": ["by"]}]}, "candidates[0].groups: must be a mapping"),
        (
            {"candidates": [{"id": 1, "topics": {"by": "x"}}]},
            "candidates[0].topics.by: must be a l",
        ),
        (
            {"candidates": [{"id": 1, "topics": {"by": [2]}}]},
            "candidates[0].topics.by[0]: must be ",
        ),
        ({"candidates": [{"id": 1, "topics": []}]}, "candidates[0].topics: must be a mapping, got"),
        (
            {"candidates": [{"id": 1, "boost": "2"}]},
            "candidates[0].boost: must be a number, got '2",
        ),
        ({"candidates": {"id": [1], "boost": [True]}}, "candidates.boost[0]: must be a number, go"),
        (
            {"candidates": {"id": [1], "topics": {"a": ["b"]}}},
            "candidates.topics.a[0]: must be a l",
        ),
        ({"diversity": 3}, "diversity: must be a list of mappings, got 3 of type int"),
        ({"diversity": "genres"}, "diversity: must be a list of mappings, got 'genres' of type s"),
        ({"diversity": {"weight": 1}}, "diversity.by: must be a string, got None of type None"),
        ({"diversity": {"by": "x", "decay": "1"}}, "diversity.decay: must be a number, got '1' of"),
        ({"diversity": [{"by": "x"}, 7]}, "diversity[1]: must be a mapping, got 7 of type int"),
        (
            {"diversity": [{"by": "x", "weight": True}]},
            "diversity[0].weight: must be a number, got",
        ),
        ({"candidates": [{"id": 1, "features": {"x": {1}}}]}, "candidates[0].features.x: must be "),
        ({"user": {"id": uuid.UUID(int=7)}}, "user.id: must be an id, a string or an integer, got"),
        ({"user": {"history": "abc"}}, "user.history: must be a list, got 'abc' of type str"),
        ({"user": {"history": ["a", None]}}, "user.history[1]: must be an id, a string or an"),
        ({"user": {"history": [{"id": True}]}}, "user.history[0].id: must be an id, a string or"),
        ({"user": {"features": {"x": b"1"}}}, "user.features.x: must be a string, number, boolea"),
        ({"context": {"at": datetime(2026, 1, 1)}}, "context.at: must be a string, number, bool"),
        ({"context": {"price": Decimal("1.5")}}, "context.price: must be a string, number, boole"),
        ({"context": {"x": np.float32(1)}}, "context.x: must be a string, number, boolean, None,"),
        ({"context": {("a", "b"): 1}}, "context, a key: must be a string, got ('a', 'b') of type"),
        ({"context": {"list": [1, object]}}, "context.list[1]: must be a string, number, boolean"),
        ({"slate_size": "3"}, "slate_size: must be an integer, got '3' of type str"),
        ({"slate_size": True}, "slate_size: must be an integer, got True of type bool"),
        ({"constraints": ["a"]}, "constraints: must be a mapping, got ['a'] of type list"),
        ({"constraints": {"pinned": ["a"]}}, "constraints.pinned: must be a mapping, got ['a']"),
        ({"constraints": {"pinned": {True: 0}}}, "constraints.pinned: must be an id, a string or"),
        ({"constraints": {"pinned": {"a": "0"}}}, "constraints.pinned.a: must be an integer, got"),
        ({"constraints": {"blocked": "abc"}}, "constraints.blocked: must be a list, got 'abc' of"),
        ({"constraints": {"blocked": {"a"}}}, "constraints.blocked: must be a list, got {'a'} of"),
        ({"constraints": {"blocked": [None]}}, "constraints.blocked[0]: must be an id, a string "),
        ({"constraints": {"max_per_group": 1}}, "constraints.max_per_group: must be a mapping, "),
        ({"constraints": {"max_per_group": {"by": 1.0}}}, "constraints.max_per_group.by: must be"),
        ({"model": b"ranklens"}, "model: must be a string, number, boolean, None, list or mapping"),
        ({"request_id": uuid.UUID(int=7)}, "request_id: must be a string, got UUID("),
        ({"request_id": b"mine"}, "request_id: must be a string, got b'mine' of type bytes"),
        ({"traceparent": 7}, "traceparent: must be a string, got 7 of type int"),
        ({"timeout_ms": "100"}, "timeout_ms: must be a number, got '100' of type str"),
        ({"timeout_ms": True}, "timeout_ms: must be a number, got True of type bool"),
    ],
)
def test_a_value_of_a_wrong_type_is_a_type_error_that_names_its_field(arguments, start):
    assert message(arguments).startswith(start)


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ({"candidates": ()}, "candidates: at least one is needed, got none"),
        ({"candidates": "abc"}, "candidates: must be a list of ids or mappings, got 'abc'"),
        ({"context": {"x": [1.0, float("nan")]}}, "context.x[1]: must be finite, got nan"),
        ({"user": {"features": {"x": float("-inf")}}}, "user.features.x: must be finite, got -inf"),
        (
            {"candidates": [{"id": 1, "boost": math.nan}]},
            "candidates[0].boost: must be finite, got ",
        ),
        (
            {"diversity": {"by": "x", "weight": math.inf}},
            "diversity.weight: must be finite, got inf",
        ),
        ({"context": {"x": CIRCULAR}}, "context.x[0][0]"),
        ({"context": NESTED}, "context.a.a.a"),
        ({"candidates": [10**5000]}, "request: Exceeds the limit"),
    ],
)
def test_a_value_that_json_cannot_hold_is_a_value_error_that_names_its_field(arguments, start):
    assert message(arguments, ValueError).startswith(start)


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        ({"candidates": ["a"]}, "requests: must be a list of mappings, got {'candidates'"),
        (None, "requests: must be a list of mappings, got None of type NoneType"),
        ([["a", "b"]], "requests[0]: must be a mapping, got ['a', 'b'] of type list"),
        ([{"candidates": [1]}, {"slate_size": 2}], "requests[1].candidates: missing"),
        ([{"candidates": [1]}, {"candidates": [None]}], "requests[1].candidates[0]: must be an id"),
        ([{"candidates": [1], "slate_sise": 2}], "requests[0].slate_sise: unknown field"),
        ([{"candidates": [1], "context": {"x": b""}}], "requests[0].context.x: must be a string"),
    ],
)
def test_an_error_in_a_batch_names_the_list(requests, text):
    with Client("http://127.0.0.1:9") as client, pytest.raises(TypeError, match=re.escape(text)):
        client.rerank_many(requests)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("urls", "settings", "text"),
    [
        (None, {}, "urls: must be a list of strings, got None of type NoneType"),
        (b"http://a", {}, "urls: must be a list of strings, got b'http://a' of type bytes"),
        (["http://a", None], {}, "urls: must be strings, got NoneType"),
        (httpx.URL("http://a"), {}, "urls: must be a list of strings, got URL('http://a')"),
        ("http://a", {"timeout_ms": None}, "timeout_ms: must be a number, got None of type"),
        ("http://a", {"timeout_ms": "1"}, "timeout_ms: must be a number, got '1' of type str"),
        ("http://a", {"api_key": b"s3cret"}, "api_key: must be a string, got bytes"),
    ],
)
def test_a_setting_of_a_wrong_type_is_a_type_error_that_names_it(kind, urls, settings, text):
    with pytest.raises(TypeError, match=re.escape(text)) as raised:
        kind(urls, **settings)
    assert "s3cret" not in str(raised.value)


def test_mappings_and_sequences_of_any_class_become_json():
    candidates: Any = (
        {"a": 0.5, "b": 0.25}.keys(),
        iter(["a", "b"]),
        np.array(["a", "b"]),
        ("a", "b"),
    )
    for entries in candidates:
        assert json.loads(encode(build_list_body(entries))) == {
            "candidates": [{"id": "a"}, {"id": "b"}]
        }
    body = build_list_body(
        [MappingProxyType({"id": "a", "features": UserDict(x=1)})],
        context=OrderedDict(hours=UserList([1, 2]), span=range(2)),
    )
    assert json.loads(encode(body)) == {
        "candidates": [{"id": "a", "features": {"x": 1}}],
        "context": {"hours": [1, 2], "span": [0, 1]},
    }


def test_integer_ids_are_sent_as_integers_everywhere():
    (body,) = build_batch_bodies(
        [
            {
                "candidates": [HUGE, {"id": -1}, "1"],
                "user": {"id": 7, "history": [8, {"id": 9}]},
                "constraints": {"pinned": {HUGE: 0}, "blocked": [2]},
            }
        ]
    )
    assert json.loads(encode(body)) == {
        "candidates": [{"id": HUGE}, {"id": -1}, {"id": "1"}],
        "user": {"id": 7, "history": [8, {"id": 9}]},
        "constraints": {"pinned": {str(HUGE): 0}, "blocked": [2]},  # keys of JSON are strings
    }


def test_integer_ids_come_back_as_they_were_sent(connect):
    def respond(body, request_id):
        return reply(body=response_to(body, request_id))

    with scripted(respond) as server:
        response = connect(server.url).rerank([HUGE, "7", 8])
    sent = json.dumps(server.requests[0][1]["candidates"])
    assert sent == f'[{{"id": {HUGE}}}, {{"id": "7"}}, {{"id": 8}}]'
    assert response.ids == (8, "7", HUGE)
    assert [type(item) for item in response.ids] == [int, str, int]


def typed(ids):
    """Return ids with their types: 1 and 1.0 are equal in Python."""
    return [(type(item), item) for item in ids]


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_the_service_returns_numeric_ids_as_the_client_sent_them(connect, url, batch):
    candidates = [HUGE, 2**63, 2**70, -5, 9.0, np.float64(50), "1196", 260, 589.0, 47, 296]
    request: Any = {
        "candidates": [*candidates[:3], *({"id": item} for item in candidates[3:])],
        "user": {"id": 7, "history": [32, 34.0, {"id": HUGE, "label": 0}]},
        "constraints": {"pinned": {589.0: 0, HUGE: 1, "9": 2, 50: 3}, "blocked": [47.0, "296"]},
    }
    client = connect(url)
    (response,) = client.rerank_many([request]) if batch else [client.rerank(**request)]
    assert response.degraded is None
    assert typed(response.ids[:4]) == typed([589.0, HUGE, 9.0, 50.0])
    sent = [candidates[entry.initial_position] for entry in response.slate]
    assert sorted(map(str, response.ids)) == sorted(map(str, candidates[:-2]))
    assert typed(response.ids) == typed(float(i) if isinstance(i, float) else i for i in sent)


@pytest.mark.parametrize("pair", [(1, "1"), (1, 1.0), (2.0, "2"), (2**70, str(2**70))])
def test_the_service_refuses_a_number_and_its_text_as_one_id(connect, url, pair):
    with pytest.raises(Refused) as raised:
        connect(url).rerank(["a", *pair])
    (error,) = raised.value.errors
    assert (error.field, error.value) == ("candidates[2].id", json.dumps(pair[1]))


def test_the_fallback_treats_a_float_and_its_text_as_one_id(connect, down):
    rules: Any = {"pinned": {3.0: 0}, "blocked": [1.0, "4"]}
    response = connect(down).rerank(["1", 2.0, 3, 4.0], constraints=rules)
    assert typed(response.ids) == typed([3, 2.0])


def test_the_fallback_treats_1_and_its_text_as_one_id_and_none_as_absent(connect, down):
    client = connect(down)
    rules: Any = {"pinned": {"3": 0}, "blocked": ["1"]}
    assert client.rerank([1, 2, 3], constraints=rules).ids == (3, 2)
    rules = {"pinned": {3: 0}, "blocked": [1]}
    assert client.rerank(["1", "2", "3"], constraints=rules).ids == ("3", "2")
    nothing: Any = {"pinned": None, "blocked": None, "max_per_group": None}
    bare: Any = [{"id": 1, "groups": None, "features": None}, {"id": 2, "groups": {"by": None}}]
    user = {"id": None, "history": None, "features": None}
    assert client.rerank(bare, constraints=nothing, user=user, slate_size=None).ids == (1, 2)
    limited: Any = {"max_per_group": {"by": 0}}
    assert [entry.id for entry in initial_ranking(build_list_body(bare, constraints=limited))] == [
        1, 2
    ]  # fmt: skip


def test_a_wrong_type_that_json_can_hold_is_refused_by_the_service(connect, url):
    with pytest.raises(Refused) as raised:
        connect(url).rerank(["1"], user={"history": [{"label": 1}]}, reasoning="much", model=7)
    fields = {error.field for error in raised.value.errors}
    assert fields == {"user.history[0].id", "reasoning", "model"}
