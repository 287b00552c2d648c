"""PUT, GET and DELETE of users and items over HTTP."""

import json
import re
import time

import httpx
import jsonschema_rs
import ormsgpack
import pytest

from service.http.entities import MAX_REFUSED
from service.state.engine import Key, Value
from service.state.errors import StateFull, StateUnavailable
from service.state.lmdb_engine import LmdbEngine
from tests.support.redis_servers import redis_server
from tests.support.servers import application, fresh

NDJSON = {"Content-Type": "application/x-ndjson"}
MSGPACK = {"Content-Type": "application/msgpack"}
JSON = {"Content-Type": "application/json"}
MAX_BYTES = 4096


@pytest.fixture(scope="module")
def client(session, tmp_path_factory):
    """A client of a service with a store, and with small limits of bodies.

    The tests use ids of their own. The user `noise` has bytes that no store has written.
    """
    store = tmp_path_factory.mktemp("state")
    engine = LmdbEngine(store)
    engine.put_many([(Key("user", "noise"), Value(b"noise"))])
    engine.close()
    limits = {"max_body_bytes": MAX_BYTES, "body_timeout_s": 2}
    with (
        fresh(session, state=f"lmdb://{store}", **limits) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def lines(*records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def put(client, path, content, headers=NDJSON):
    return client.put(path, content=content, headers=headers)


def outcome(response):
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == "application/msgpack":
        return ormsgpack.unpackb(response.content)
    return response.json()


def problem(response, status, code):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    return body


FIRST = {"user": "a1", "history": [{"id": "260", "label": 0.5, "time": 5}, "1721"]}


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (lines(FIRST, {"user": 7}), NDJSON),
        (b"\r\n" + lines(FIRST) + b'\n \n{"user": " 7 "}', {}),
        (ormsgpack.packb(FIRST) + ormsgpack.packb({"user": 7}), MSGPACK),
        (json.dumps([FIRST, {"user": 7.0}], indent=2).encode(), JSON),
    ],
)
def test_records_of_every_form_are_written_and_read_back(client, content, headers):
    client.delete("/users/a1")
    written = outcome(put(client, "/users", content, headers))
    assert written == {"written": 2, "refused_count": 0, "refused": []}
    response = client.get("/users/a1")
    record = outcome(response)
    assert response.headers["cache-control"] == "no-store"
    assert record["history"] == {
        "id": ["260", "1721"], "label": [0.5, 1.0], "type": [None, None], "time": [5, None],
    }  # fmt: skip
    assert abs(record["updated_at"] / 1e3 - time.time()) < 3600
    assert outcome(client.get("/v1/users/7"))["user"] == "7"
    assert outcome(put(client, "/v1/users", lines(record)))["written"] == 1


def test_one_object_of_json_is_a_record_and_a_bad_one_is_named(client):
    assert outcome(client.put("/items", json={"item": "b1"}))["written"] == 1
    response = outcome(client.put("/items", json={"item": "b1", "prise": 1}))
    assert (response["written"], response["refused_count"]) == (0, 1)
    assert response["refused"][0]["field"] == "prise"


def test_a_record_changes_only_what_it_has(client):
    one = {"item": "c1", "features": {"budget": 5, "director": "x"}}
    counters = {"like_rate": {"shows": 4.0, "likes": 1.0, "time": 9}}
    put(client, "/items", lines(one, {"item": "c1", "counters": counters}))
    put(client, "/items", lines({"item": "c1", "features": {"director": None, "runtime": 90}}))
    record = outcome(client.get("/items/c1"))
    assert (record["features"], record["counters"]) == ({"budget": 5, "runtime": 90}, counters)


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"{", ("line", "JSON in UTF-8", '"{"')),
        (b'{"item": "d1", "item": "d2"}', ("item", "stated once", '"d')),
        (b"[1]", ("line", "an object", "[1]")),
        (b'{"user": "d1"}', ("user", "items only; send it to PUT /users", '"d1"')),
        (b'{"item": " "}', ("item", "a text that is not blank", '" "')),
        (b'{"item": "%s"}' % (b"d" * 481), ("item id", "text of 1 to 480 bytes", '"ddd')),
        (b'{"item": "d1", "features": {"nosuch": 1}}', ("features.nosuch", "a feature of", "1")),
        (
            b'{"item": "d1", "features": {"budget": "x"}}',
            ("features.budget", "a finite number", '"x"'),
        ),
        (
            b'{"item": "d1", "updated_at": %s%s}' % (b"[" * 1000, b"]" * 1000),
            ("updated_at", "a whole number of ms", "a deeply nested list"),
        ),
        (b'{"item": "d1", "expires_at": -1}', ("expires_at", "a whole number of ms", "-1")),
        (b'{"item": "d1", "x": "%s"}' % (b"d" * MAX_BYTES), ("line", "at most 4096", '"41')),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_written(client, line, refusal):
    response = outcome(put(client, "/items", lines({"item": "d3"}) + line + b'\n{"item": "d4"}'))
    assert (response["written"], response["refused_count"]) == (2, 1)
    entry = response["refused"][0]
    field, rule, value = refusal
    assert (entry["line"], entry["field"]) == (2, field)
    assert entry["rule"].startswith(rule)
    assert entry["value"].startswith(value)
    assert client.get("/items/d1").status_code == 404
    assert client.get("/items/d4").status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        {1: 2, "item": "e1"}, {1: 2, "a": 3}, {"item": "e1", "counters": {1: None}}, 5, None,
        {"item": "e1", "features": {1: 2}}, {"item": b"e1"}, {"item": 1 << 63, "features": [1]},
    ],
)  # fmt: skip
def test_messagepack_of_another_form_is_refused_alone(client, value):
    bad = ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)
    response = outcome(put(client, "/items", bad + ormsgpack.packb({"item": "e2"}), MSGPACK))
    assert (response["written"], response["refused_count"]) == (1, 1)
    assert response["refused"][0]["line"] == 1


@pytest.mark.parametrize(
    ("rest", "rule"),
    [
        (b"\xc1", "MessagePack"),
        (b"\x91" * 2000, "MessagePack"),
        (b"\xdf\xff\xff\xff\xff", "complete"),
        (ormsgpack.packb({"item": "x" * 100})[:-1], "complete"),
        (b"\xc6\x7f\xff\xff\xff" + bytes(2 * MAX_BYTES), "at most 4096 bytes"),
    ],
)
def test_values_before_messagepack_that_ends_nowhere_are_written_and_counted(client, rest, rule):
    client.delete("/items/f1")
    body = problem(
        put(client, "/items", ormsgpack.packb({"item": "f1"}) + rest, MSGPACK), 400, "bad_json"
    )
    assert body["errors"][0]["field"] == "record 2"
    assert body["errors"][0]["rule"] == rule
    assert body["written"] == 1
    assert "stay" in body["detail"]
    assert client.get("/items/f1").status_code == 200


def test_a_large_value_of_messagepack_is_refused_alone(client):
    values = [{"item": "g1", "x": "x" * MAX_BYTES}, {"item": "g2"}]
    content = b"".join(map(ormsgpack.packb, values))
    response = outcome(put(client, "/items", content, MSGPACK))
    assert (response["written"], response["refused"][0]["line"]) == (1, 1)
    assert response["refused"][0]["rule"] == "at most 4096 bytes"


def test_the_list_of_refused_lines_is_bounded_and_their_number_exact(client):
    content = b"no\n" * 2000 + lines({"item": "h1"})
    response = outcome(put(client, "/items", content))
    assert (response["written"], response["refused_count"]) == (1, 2000)
    assert [entry["line"] for entry in response["refused"]] == list(range(1, MAX_REFUSED + 1))


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        (JSON, b"{", 400, "bad_json"),
        (JSON, lines({"item": "i1"}, {"item": "i2"}), 400, "bad_json"),
        (JSON, b'"' + b"x" * MAX_BYTES + b'"', 413, "payload_too_large"),
        (JSON | {"Content-Encoding": "gzip"}, b"{}", 415, "unsupported_media_type"),
        (NDJSON | {"Content-Encoding": "br"}, b"{}", 415, "unsupported_media_type"),
    ],
)
def test_a_body_that_cannot_be_read_at_all_is_a_problem(client, headers, content, status, code):
    problem(put(client, "/items", content, headers), status, code)


def test_features_of_another_schema_are_kept_without_the_check(client):
    line = lines({"user": "j1", "features": {"age": 31}})
    assert outcome(put(client, "/users", line))["refused_count"] == 1
    assert outcome(put(client, "/users?check=false", line))["written"] == 1
    assert outcome(client.get("/users/j1"))["features"] == {"age": 31}


def test_records_expire_after_their_time_or_that_of_the_query(client):
    soon = round(1e3 * time.time()) + 1
    put(client, "/users?ttl_s=3600", lines({"user": "k1"}, {"user": "k2", "expires_at": soon}))
    put(client, "/users?ttl_s=0.001", lines({"user": "k3"}))
    time.sleep(0.01)
    assert [client.get(f"/users/k{n}").status_code for n in (1, 2, 3)] == [200, 404, 404]


@pytest.mark.parametrize("query", ["ttl_s=0", "ttl_s=nan", "ttl_s=1e300", "check=yes", "chek=true"])
def test_a_bad_query_is_refused_before_anything_is_written(client, query):
    body = problem(put(client, f"/users?{query}", lines({"user": "l1"})), 422, "invalid_request")
    assert body["errors"][0]["field"].startswith("query")
    assert client.get("/users/l1").status_code == 404


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("m%2F1", "m/1"), ("m/1", "m/1"), ("m%2F", "m/"), ("%2F", "/"), ("%C3%A9%20%CE%A9", "é Ω"),
        ("m%25", "m%"), ("m%3Fa=1", "m?a=1"), ("m+1", "m+1"), ("%2E%2E", ".."), ("m1/", "m1"),
        ("x" * 480, "x" * 480),
    ],
)  # fmt: skip
def test_ids_are_percent_encoded_in_paths(client, path, item):
    put(client, "/items", lines({"item": item}))
    assert outcome(client.get(f"/items/{path}"))["item"] == item
    assert client.delete(f"/v1/items/{path}").status_code == 204
    problem(client.get(f"/items/{path}"), 404, "unknown_entity")


@pytest.mark.parametrize("path", ["%20", "%FF", "x" * 481, "%E2%80%83"])
def test_a_path_without_a_valid_id_is_refused(client, path):
    for method in ("GET", "DELETE"):
        body = problem(client.request(method, f"/users/{path}"), 422, "invalid_request")
        assert body["errors"][0]["field"] == "user id"


def test_a_delete_reaches_rankings_at_once_and_may_be_repeated(client, items):
    put(client, "/users", lines({"user": "n1", "history": items[:3]}))
    request = {"user": {"id": "n1"}, "candidates": items[20:40], "explain": True}

    def state():
        return client.post("/rerank", json=request).raise_for_status().json()["state"]

    assert (state()["user"], state()["history"]) == ("hit", 3)
    for _ in range(2):
        response = client.delete("/users/n1")
        assert (response.status_code, response.content) == (204, b"")
    assert state()["user"] == "miss"


def test_bytes_that_no_store_has_written_are_named_and_can_be_replaced(client):
    problem(client.get("/users/noise"), 500, "state_corrupt")
    put(client, "/users", lines({"user": "noise"}))
    assert client.get("/users/noise").status_code == 200


@pytest.mark.parametrize(
    ("path", "methods"), [("/users", "PUT"), ("/items/p1", "DELETE, GET, HEAD")]
)
def test_other_methods_are_refused_with_those_of_the_path(client, path, methods):
    response = client.post(path)
    problem(response, 405, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == {"OPTIONS", *methods.split(", ")}


def test_metrics_count_the_records_by_kind_and_outcome(client):
    def counts():
        page = client.get("/metrics").text
        name = r'rerank_state_records_total\{kind="item",outcome="(\w+)"\} (\S+)'
        return {outcome: float(number) for outcome, number in re.findall(name, page)}

    before = counts()
    put(client, "/items", lines({"item": "s1"}, {"item": "s2"}, {"user": "s3"}))
    for _ in range(2):  # the second finds nothing to delete
        client.delete("/items/s1")
    added = {outcome: number - before[outcome] for outcome, number in counts().items()}
    assert added == {"written": 2, "refused": 1, "deleted": 1}


def test_a_client_that_pauses_for_too_long_is_refused_and_what_it_sent_stays(client):
    def slow():
        yield lines(*({"item": f"q{number}"} for number in range(1500)))
        time.sleep(3)
        yield b"{}"

    response = client.put("/items", content=slow(), headers=NDJSON)
    assert problem(response, 408, "timeout")["written"] == 1500
    assert response.headers["connection"] == "close"
    assert client.get("/items/q1499").status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StateUnavailable("secret"), 503, "state_unavailable"),
        (StateFull("secret"), 507, "state_full"),
    ],
)
def test_a_store_that_fails_midway_is_a_problem_with_the_lines_written(
    session, tmp_path, monkeypatch, error, status, code
):
    update, calls = LmdbEngine.update_many, []

    def update_many(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise error
        update(*arguments)

    monkeypatch.setattr(LmdbEngine, "update_many", update_many)
    with (
        fresh(session, state=f"lmdb://{tmp_path}") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        content = lines(*({"item": str(number)} for number in range(3000)))
        body = problem(put(client, "/items", content), status, code)
        assert body["written"] == 1000
        assert "secret" not in str(body)
        assert client.get(f"/items/{body['written'] - 1}").status_code == 200
        assert client.get(f"/items/{body['written']}").status_code == 404


def test_rankings_go_on_during_a_long_slow_upload(client, items):
    """100,000 lines, while another connection ranks."""
    ranked = []

    def content():
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            for start in range(0, 100_000, 2000):
                yield lines(*({"item": f"r{number}"} for number in range(start, start + 2000)))
                response = other.post("/rerank", json={"candidates": items[:24]})
                ranked.append(response.json()["degraded"])

    response = client.put("/items", content=content(), headers=NDJSON)
    assert outcome(response)["written"] == 100_000
    assert ranked == [None] * 50


def test_the_document_has_the_routes_and_its_examples_are_written(client):
    document = client.get("/openapi.json").json()
    for kind in ("user", "item"):
        for path in (f"/{kind}s", f"/v1/{kind}s"):
            operation = document["paths"][path]["put"]
            example = operation["requestBody"]["content"]["application/json"]["example"]
            response = outcome(client.put(path, json=example))
            assert (response["written"], response["refused_count"]) == (1, 0)
            assert document["paths"][f"{path}/{{id}}"].keys() == {"get", "delete"}
            schema = {"$ref": "#/components/schemas/PutResponse", **document}
            assert jsonschema_rs.is_valid(schema, response)
            stored = outcome(client.get(f"{path}/{example[0][kind]}"))
            schema = {"$ref": f"#/components/schemas/{kind.title()}Record", **document}
            assert jsonschema_rs.is_valid(schema, stored)
            assert not jsonschema_rs.is_valid(schema, {**stored, "x": 1})


def test_a_service_without_a_store_does_not_document_the_routes(session):
    assert "/users" not in application(session).openapi()["paths"]


def test_a_redis_that_goes_down_during_an_upload_and_comes_back(session, tmp_path):
    with redis_server("valkey", tmp_path, "--appendonly", "yes") as server:
        address = f"redis://127.0.0.1:{server.port}/0"
        with (
            fresh(session, state=address) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            assert outcome(put(client, "/users", lines({"user": "é/1"})))["written"] == 1

            def content():
                for start in range(0, 4000, 1000):
                    if start == 2000:
                        server.kill()
                    yield lines(*({"item": str(n)} for n in range(start, start + 1000)))

            body = problem(put(client, "/items", content()), 503, "state_unavailable")
            assert body["written"] < 4000
            problem(client.get("/users/%C3%A9%2F1"), 503, "state_unavailable")
            server.start()
            assert outcome(put(client, "/items", lines({"item": "last"})))["written"] == 1
            assert client.get("/users/%C3%A9%2F1").status_code == 200
            assert client.delete("/users/%C3%A9%2F1").status_code == 204
            problem(client.get("/users/%C3%A9%2F1"), 404, "unknown_entity")
