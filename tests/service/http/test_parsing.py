"""Forms and formats of a body: equal slates, and refusals of invalid ones."""

import math
import random

import httpx
import ormsgpack
import pytest
from starlette.datastructures import Headers

from service.errors import InvalidRequest
from service.http.parsing import MSGPACK, featuriser_input, validate
from service.http.responses import JsonResponse, MsgpackResponse, response_class
from service.http.schemas import RerankRequest
from tests.support.bodies import problem_of
from tests.support.servers import fresh

DETERMINISTIC = ("slate", "model", "reasoning", "utility", "degraded")


def post_msgpack(client, path, payload, **headers):
    content = payload if isinstance(payload, bytes) else ormsgpack.packb(payload)
    return client.post(path, content=content, headers={"Content-Type": MSGPACK, **headers})


def deterministic_part(result):
    return {name: result[name] for name in DETERMINISTIC}


def ids_of(result):
    return [entry["id"] for entry in result["slate"]]


def logprobs_of(result):
    return [entry["logprob"] for entry in result["slate"]]


@pytest.fixture
def records(items):
    """Candidates with features and groups; some lack genres."""
    draw = random.Random(3)
    chosen = draw.sample(items, 40)
    return [
        {
            "id": item,
            "features": {"vote_avg": draw.uniform(1, 9), "genres": ["comedy", "drama"][: i % 3]},
            "groups": {"author": str(i % 4)},
        }
        for i, item in enumerate(chosen)
    ]


def columns_of(records):
    return {
        "id": [record["id"] for record in records],
        "features": {
            name: [record["features"][name] for record in records]
            for name in ("vote_avg", "genres")
        },
        "groups": {"author": [record["groups"]["author"] for record in records]},
    }


def test_records_columns_and_messagepack_give_the_same_slate(client, records):
    extra = {"constraints": {"max_per_group": {"author": 2}}, "explain": True}
    bodies = [{"candidates": form, **extra} for form in (records, columns_of(records))]
    results = [client.post("/rerank", json=payload).raise_for_status().json() for payload in bodies]
    for payload in bodies:
        result = post_msgpack(client, "/rerank", payload).raise_for_status()
        assert result.headers["content-type"] == MSGPACK
        results.append(ormsgpack.unpackb(result.content))
    assert all(deterministic_part(result) == deterministic_part(results[0]) for result in results)
    for path in ("/rerank/batch", "/v1/rerank/batch"):
        result = post_msgpack(client, path, {"requests": bodies}).raise_for_status()
        responses = ormsgpack.unpackb(result.content)["responses"]
        assert len(responses) == 2
        for response in responses:  # of one run, so the last digits may differ
            assert ids_of(response) == ids_of(results[0])
            assert logprobs_of(response) == pytest.approx(logprobs_of(results[0]), abs=1e-4)
    # Without their features and groups the records give another slate.
    plain = [{"id": record["id"]} for record in records]
    bare = client.post("/rerank", json={**bodies[0], "candidates": plain})
    assert bare.status_code == 422  # no candidate has an author
    bare = client.post("/rerank", json={"candidates": plain, "explain": True}).json()
    assert deterministic_part(bare) != deterministic_part(results[0])
    assert ids_of(bare)[:8] != ids_of(results[0])
    assert logprobs_of(bare)[:8] != pytest.approx(logprobs_of(results[0]), abs=1e-4)


def test_ids_alone_equal_records_and_columns_with_nothing_but_ids(client, items):
    ids = random.Random(4).sample(items, 30)
    forms = ([{"id": i} for i in ids], ids, {"id": ids}, {"id": ids, "score": [None] * 30})
    results = [client.post("/rerank", json={"candidates": form}).json() for form in forms]
    results += [ormsgpack.unpackb(post_msgpack(client, "/rerank", {"candidates": ids}).content)]
    batch = client.post("/rerank/batch", json={"requests": [{"candidates": ids}]}).json()
    results += batch["responses"]
    assert len(results) == 6
    assert all(deterministic_part(result) == deterministic_part(results[0]) for result in results)


def test_a_null_in_a_column_equals_a_record_without_the_field(client, items):
    ids = random.Random(5).sample(items, 30)
    values = [9.5 if i % 2 else None for i in range(30)]
    columns = {"id": ids, "features": {"vote_avg": values}, "groups": {"a": ["x"] * 29 + [None]}}
    records = [
        {"id": i, **({"features": {"vote_avg": v}} if v else {}), "groups": {"a": "x"}}
        for i, v in zip(ids, values, strict=True)
    ]
    del records[-1]["groups"]
    extra = {"constraints": {"max_per_group": {"a": 1}}}
    results = [
        client.post("/rerank", json={"candidates": form, **extra}).raise_for_status().json()
        for form in (columns, records)
    ]
    assert deterministic_part(results[0]) == deterministic_part(results[1])
    assert len(results[0]["slate"]) == 2  # one item of group x and the one without a group


UNEVEN = [
    ({"score": [0.5]}, "score", 1),
    ({"score": []}, "score", 0),
    ({"features": {"vote_avg": [7.5] * 4}}, "features.vote_avg", 4),
    ({"features": {"vote_avg": [7.5] * 3, "runtime": []}}, "features.runtime", 0),
    ({"groups": {"author": ["a", "b"]}}, "groups.author", 2),
]


@pytest.mark.parametrize(("extra", "field", "length"), UNEVEN)
def test_columns_of_unequal_length_are_refused_by_name(client, extra, field, length):
    uneven = {"candidates": {"id": ["1", "2", "3"], **extra}}
    for path, payload, where in (
        ("/rerank", uneven, ""),
        ("/rerank/batch", {"requests": [{"candidates": ["1"]}, uneven]}, "requests[1]."),
    ):
        (error,) = problem_of(client.post(path, json=payload), 422)["errors"]
        assert error["field"] == f"{where}candidates.{field}"
        assert error["rule"] == "as long as id, which has 3"
        assert error["value"] == str(length)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "zstd"])
@pytest.mark.parametrize("kind", [MSGPACK, "application/json"])
def test_a_compressed_body_is_refused_with_415(client, encoding, kind):
    headers = {"Content-Encoding": encoding, "Content-Type": kind}
    response = client.post("/rerank", content=b"\x1f\x8b", headers=headers)
    problem = problem_of(response, 415)
    assert response.headers["accept-encoding"] == "identity"
    assert problem["code"] == "unsupported_media_type"
    assert problem["errors"][0]["field"] == "header Content-Encoding"
    assert problem["errors"][0]["value"] == f'"{encoding}"'


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_with_identity_encoding_is_read(client, encoding):
    headers = {"Content-Encoding": encoding}
    assert client.post("/rerank", json={"candidates": ["1"]}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("accept", "kind", "expected"),
    [
        (None, None, JsonResponse),
        (None, MSGPACK, MsgpackResponse),
        ("*/*", MSGPACK, MsgpackResponse),
        ("*/*", "application/json", JsonResponse),
        ("application/json", MSGPACK, JsonResponse),
        ("application/msgpack", "application/json", MsgpackResponse),
        ("Application/X-MsgPack", None, MsgpackResponse),
        ("text/html, application/vnd.msgpack;q=0.9", "application/json", MsgpackResponse),
        ("text/html", "application/json", JsonResponse),
        (None, "Application/MsgPack; charset=binary", MsgpackResponse),
        (None, "application/msgpackish", JsonResponse),
    ],
)
def test_the_response_format_follows_accept_and_then_the_content_type(accept, kind, expected):
    values = {"accept": accept, "content-type": kind}
    assert response_class(Headers({k: v for k, v in values.items() if v is not None})) is expected


def test_problems_are_json_even_if_messagepack_is_accepted(client):
    problem_of(post_msgpack(client, "/rerank", {"candidates": []}, Accept=MSGPACK), 422)


INVALID_MSGPACK = {
    "empty": b"",
    "reserved byte": b"\xc1",
    "truncated": ormsgpack.packb({"candidates": ["1", "2"]})[:-1],
    "trailing": ormsgpack.packb({"candidates": ["1"]}) + b"\x01",
    "key that is a map": b"\x81\x80\x02",
    "extension": b"\x81\xaacandidates\xd6\x05\x00\x00\x00\x00",
    "deep": b"\x91" * 100_000 + b"\x01",
    "not utf-8": b"\x81\xaacandidates\x91\xa2\xff\xfe",
    "longer than it is": b"\xdd\xff\xff\xff\xff\x01",
    "json": b'{"candidates": ["1"]}',
}


@pytest.mark.parametrize("name", INVALID_MSGPACK)
def test_invalid_messagepack_is_refused_with_400(client, name):
    problem = problem_of(post_msgpack(client, "/rerank", INVALID_MSGPACK[name]), 400)
    assert problem["code"] == "bad_json"
    assert problem["errors"][0]["rule"] == "MessagePack"


def payloads_with(number):
    """Yield a payload with the number for every field that takes one."""
    yield {"candidates": [{"id": "1", "score": number}]}
    yield {"candidates": {"id": ["1"], "score": [number]}}
    for feature in ("vote_avg", "like_rate", "budget", "genres", "director", "text_vector"):
        for value in (number, [number], [number] * 64):
            yield {"candidates": [{"id": "1", "features": {feature: value}}]}
            yield {"candidates": {"id": ["1"], "features": {feature: [value]}}}
    yield {"candidates": ["1"], "user": {"history": [{"id": "1", "label": number}]}}
    yield {"candidates": ["1"], "user": {"features": {"age": number}}}
    yield {"candidates": ["1"], "context": {"hour": number}}
    yield {"candidates": ["1"], "timeout_ms": number}
    yield {"candidates": ["1"], "slate_size": number}
    for knobs in ({"budget": number}, {"entropy_threshold": number}):
        yield {"candidates": ["1"], "reasoning": knobs}
    for knobs in ({"reason": number}, {"recommend": number}):
        yield {"candidates": ["1"], "temperatures": knobs}
    yield {"candidates": ["1"], "sampling": {"slates": 1, "seed": number}}
    yield {"candidates": ["1"], "constraints": {"pinned": {"1": number}}}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, b"\x00\xff"])
def test_values_that_json_lacks_are_refused_in_every_field(client, number):
    for payload in payloads_with(number):
        problem = problem_of(post_msgpack(client, "/rerank", payload), 422)
        assert problem["errors"], payload


@pytest.mark.parametrize("number", [1e308, -1e308, 2**64 - 1, -(2**63), 5e-324, -0.0])
def test_extreme_numbers_are_refused_or_ranked_with_finite_figures(client, number):
    statuses = []
    for payload in payloads_with(number):
        result = post_msgpack(client, "/rerank", payload, Accept="application/json")
        assert result.status_code in (200, 422), (payload, result.text)
        statuses.append(result.status_code)
        if result.status_code == 200:
            for entry in result.json()["slate"]:
                late = result.json()["degraded"] == {"reason": "deadline", "reasons": ["deadline"]}
                assert entry["logprob"] is None if late else math.isfinite(entry["logprob"])
    assert 422 in statuses


def test_messagepack_is_smaller_than_json_and_counted_in_metrics(session, items):
    ids = random.Random(6).sample(items, 30)
    with fresh(session) as url, httpx.Client(base_url=url, timeout=30) as http:
        plain = http.post("/rerank", json={"candidates": ids})
        msgpack = post_msgpack(http, "/rerank", {"candidates": ids})
        post_msgpack(http, "/rerank", b"\xc1")
        text = http.get("/metrics").text
    assert len(msgpack.content) < 0.9 * len(plain.content)
    name = 'rerank_requests_total{model="ranklens",outcome="%s",variant="active",version="1"} %s'
    assert name % ("ok", "2.0") in text
    assert name % ("client_error", "1.0") in text


def test_features_are_validated_without_a_copy():
    features, context = {"price": 1.0}, {"hour": "9"}
    record = {"id": "1", "features": features}
    request = validate(RerankRequest, {"candidates": [record], "context": context})
    assert request.context is context
    assert featuriser_input(request, "")[0].features[0] is features


@pytest.mark.parametrize(
    ("features", "field", "rule"),
    [
        ({"price": 1.0, 7: 1.0}, "candidates[0].features[7]", "a string"),
        ([1.0], "candidates[0].features", "an object"),
        ("price", "candidates[0].features", "an object"),
    ],
)
def test_features_that_are_no_object_of_string_keys_are_refused(features, field, rule):
    with pytest.raises(InvalidRequest) as raised:
        validate(RerankRequest, {"candidates": [{"id": "1", "features": features}]})
    (error,) = raised.value.errors
    assert (error.field, error.rule) == (field, rule)
