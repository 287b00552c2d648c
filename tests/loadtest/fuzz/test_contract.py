"""Every check of HTTP passes a right response and reports a wrong one."""

import json

import pytest

from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.contract import SCHEMAS, Contract, check_conversation
from loadtest.fuzz.http_rules import (
    head_limits,
    host,
    interim,
    method,
    negotiated,
    no_redirect,
    no_server_error,
    ranking_path,
    request_id_header,
)
from loadtest.fuzz.messages import MSGPACK, Conversation, Manner, Message, Response
from loadtest.fuzz.transport import Outcome

KIB = 1 << 10
ROUTES = {"/livez": {"GET"}, "/rerank": {"POST"}}


def post(*headers, target="/rerank", body=b"{}", **more):
    return Message("POST", target, tuple(headers), body, **more)


def response(status=200, body=b"", interim=0, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, names, body, interim)


JSON = {"content_type": "application/json"}
PACKED = {"content_type": MSGPACK}
CHUNKS = {"chunked": True, "body": b"{}", "chunk": 1}  # two, and the last one
WRONG = [
    (no_redirect, post(), response(307, location="http://x/")),
    (no_server_error, post(), response(500)),
    (no_server_error, post(), response(501)),
    (no_server_error, post(version="1.0"), response(505)),
    (host, post(host=False), response(200)),
    (host, post(("Host", "a"), ("Host", "b")), response(200)),
    (interim, post(("Expect", "100-continue"), version="1.0"), response(interim=1)),
    (interim, post(("Expect", "200")), response(interim=1)),
    (interim, post(("Expect", "100-continue")), response(interim=2)),
    (head_limits, post(target="/" + "a" * 8 * KIB), response(200)),
    (head_limits, post(target="/" + "a" * 8 * KIB), response(404)),
    (head_limits, post(("X-A", "a" * 16 * KIB)), response(200)),
    (head_limits, post(*[("X-A", "")] * 100), response(422)),
    (head_limits, post(*[("X-A", "a" * 15 * KIB)] * 5), response(200)),
    (head_limits, post(trailers=(("X-A", "a" * 16 * KIB),), chunked=True), response(200)),
    (head_limits, post(trailers=(("X-A", ""),) * 100, chunked=True), response(200)),
    (head_limits, post(extension=";" + "a" * 22 * KIB, **CHUNKS), response(200)),
    (head_limits, post(("X-A", "a" * 15 * KIB)), response(431)),
    (head_limits, post(target="/" + "a" * 8_000), response(414)),
    (request_id_header, post(("X-Request-ID", "a")), response(x_request_id="b")),
    (request_id_header, post(("X-Request-ID", "a")), response()),
    (negotiated, post(), response(**PACKED)),
    (negotiated, post(("Content-Type", MSGPACK)), response(**JSON)),
    (negotiated, post(("Accept", f"{MSGPACK};q=0, */*")), response(**PACKED)),
    (negotiated, post(("Accept", f"application/json;q=0.1, {MSGPACK}")), response(**JSON)),
    (negotiated, post(("Accept", "application/x-msgpack, text/html")), response(**JSON)),
    (negotiated, post(("Accept", "application/json;q=0, application/*;q=0.2")), response(**JSON)),
]
RIGHT = [
    (no_redirect, post(), response(404)),
    (no_server_error, Message("BREW", "/", (), b""), response(501)),
    (no_server_error, post(version="2.0"), response(505)),
    (host, post(), response(200)),
    (host, post(host=False), response(400)),
    (host, post(host=False, version="1.0"), response(200)),
    (interim, post(("Expect", "100-continue")), response(interim=1)),
    (head_limits, post(target="/" + "a" * 8 * KIB), response(414)),
    (head_limits, post(("X-A", "a" * 16 * KIB)), response(431)),
    (head_limits, post(trailers=(("X-A", "a" * 16 * KIB),), chunked=True), response(404)),
    (head_limits, post(extension=";aa", **CHUNKS), response(200)),
    (request_id_header, post(("X-Request-ID", "é")), response(x_request_id="b")),
    (request_id_header, post(("X-Request-ID", "a")), response(431, connection="close")),
    (negotiated, post(), response(**JSON)),
    (negotiated, post(("Accept", "text/html")), response(**JSON)),
    (negotiated, post(("Accept", f"application/json;q=x, {MSGPACK}")), response(**JSON)),
    (negotiated, post(("Accept", "application/json;q=0.1, */*;q=0.2")), response(**PACKED)),
]


@pytest.mark.parametrize(("check", "message", "answer"), WRONG)
def test_a_wrong_response_is_reported(check, message, answer):
    assert check(message, answer) is not None


@pytest.mark.parametrize(("check", "message", "answer"), RIGHT)
def test_a_right_response_passes(check, message, answer):
    assert check(message, answer) is None


@pytest.mark.parametrize(
    ("verb", "target", "status", "allow", "right"),
    [
        ("GET", "/livez", 200, None, True),
        ("GET", "/livez", 404, None, False),
        ("HEAD", "/livez", 200, None, True),
        ("HEAD", "/livez", 405, "GET", False),
        ("DELETE", "/livez", 405, "GET, HEAD", True),
        ("DELETE", "/livez", 405, "GET", False),
        ("DELETE", "/livez", 405, None, False),
        ("DELETE", "/livez", 200, None, False),
        ("OPTIONS", "/rerank", 204, "POST, OPTIONS", True),
        ("OPTIONS", "/rerank", 200, None, False),
        ("OPTIONS", "/rerank", 405, "POST", True),
        ("OPTIONS", "/rerank", 405, "OPTIONS, POST", False),
        ("HEAD", "/rerank", 405, "POST", True),
        ("HEAD", "/rerank", 200, None, False),
        ("BREW", "/rerank", 501, None, True),
        ("post", "/rerank", 400, None, True),
        ("post", "/rerank", 200, None, False),
    ],
)
def test_methods_are_checked_by_route(verb, target, status, allow, right):
    headers = {} if allow is None else {"allow": allow}
    error = method(ROUTES, Message(verb, target, (), b""), Response(status, headers, b""))
    assert (error is None) == right


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/rerank/?x=1", "/rerank"),
        ("//v1//rerank/batch//", "/v1/rerank/batch"),
        ("/rerank;a", None),
        ("/nowhere", None),
    ],
)
def test_a_ranking_route_is_recognised_through_its_slashes(target, path):
    assert ranking_path(post(target=target)) == path


def outcome(manner, answers, count=2, error=None, rest=b""):
    conversation = Conversation((post(),) * count, manner)
    return dict(check_conversation(Outcome(conversation, answers, error, rest)))


OK, CLOSED = response(), response(connection="close")


def test_every_message_of_a_pipeline_is_answered():
    assert outcome(Manner.PIPELINED, [OK, OK]) == {"answered": None, "pipelined": None}
    assert outcome(Manner.PIPELINED, [CLOSED])["answered"] is None
    assert outcome(Manner.PIPELINED, [OK])["answered"] == "1 responses to 2 complete requests"
    assert outcome(Manner.PIPELINED, [OK], error="EOFError()")["answered"] == "EOFError()"
    assert outcome(Manner.CUT, [OK])["answered"] is None
    assert outcome(Manner.CUT, [])["answered"] == "0 responses to 1 complete requests"
    assert outcome(Manner.DEPARTED, []) == {}


def test_bytes_after_the_last_response_are_reported():
    assert outcome(Manner.HALF_CLOSED, [OK, OK], rest=b"HTTP")["half_closed"] is not None
    assert outcome(Manner.HALF_CLOSED, [OK, OK])["half_closed"] is None


def test_twins_with_another_status_or_code_are_reported():
    problem = [response(422, json.dumps({"code": code}).encode()) for code in ("a", "b")]
    assert outcome(Manner.TWINS, [OK, OK])["twins"] is None
    assert outcome(Manner.TWINS, [OK, problem[0]])["twins"] == "422 a, the first form 200"
    assert outcome(Manner.TWINS, problem)["twins"] == "422 b, the first form 422 a"


def contract():
    schemas: dict[str, dict[str, str]] = {name: {} for name in SCHEMAS}
    document = {"paths": {}, "components": {"schemas": schemas}}
    return Contract(document, {}, Bundle([], {}, {}))


SHORT = "at least 2 candidates for the free positions, 1 may be chosen"


@pytest.mark.parametrize(
    ("body", "field", "rule", "right"),
    [
        (b'{"candidates": ["1", "1"]}', "candidates[1]", "unique within the list", True),
        (b'{"candidates": ["1", "1"]}', "candidates.id[1]", "unique within the list", False),
        (b'{"candidates": ["1"], "constraints": {}}', "constraints", SHORT, False),
        (b'{"candidates": ["1"], "constraints": {}}', "constraints", f"{SHORT}: 3 blocked", True),
        (b'{"candidates": ["1"], "constraints": 1}', "constraints", "an object", True),
        (b'{"constraints": {}, "constraints": 1}', "constraints", "stated once", True),
    ],
)
def test_the_errors_of_a_refusal_name_fields_of_the_body(body, field, rule, right):
    problem = {
        "status": 422, "code": "invalid_request", "request_id": "r",
        "errors": [{"field": field, "rule": rule, "value": "1"}],
    }  # fmt: skip
    headers = {"content-type": "application/problem+json", "x-request-id": "r"}
    answer = Response(422, headers, json.dumps(problem).encode())
    results = dict(contract().check(post(body=body), answer))
    assert results["problem"] is None
    assert (results["errors_name_fields"] is None) == right


def test_a_repeated_key_must_not_be_accepted():
    message = post(body=b'{"slate_size": 1, "slate_size": 2}')
    results = dict(contract().check(message, response(**JSON)))
    assert results["repeated_key"] == "'slate_size' has two values"
