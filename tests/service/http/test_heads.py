"""Heads: their limits in bytes, Host, versions of HTTP, Expect and transfer codings."""

import itertools
import json
import socket
import threading
import time

import httpx
import pytest

from service.http.heads import MAX_FIELD_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES
from tests.support.bodies import body
from tests.support.wire import connect, exchange, post, read_all, responses

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def fields(count, size):
    """Return header lines with names and values of `size` bytes together."""
    return b"".join(b"X-%04d: %b\r\n" % (i, b"a" * (size - 6)) for i in range(count))


TOO_LARGE = {
    "target": (414, "target", b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\n\r\n"),
    "endless target": (414, "target", b"GET /" + b"a" * 1_000_000),
    "query": (414, "target", b"GET /livez?" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\n\r\n"),
    "value": (431, "header x-0000", GET + fields(1, MAX_FIELD_BYTES + 1) + b"\r\n"),
    "name": (431, "header aaa", GET + b"a" * MAX_FIELD_BYTES + b": b\r\n\r\n"),
    "endless name": (431, "head", GET + b"a" * 1_000_000),
    "endless value": (431, "head", GET + b"X: " + b"a" * 1_000_000),
    "endless space": (431, "head", GET + b"X: " + b" " * 1_000_000),
    "number": (431, "headers", GET + fields(MAX_FIELDS, 8) + b"\r\n"),
    "sum": (431, "head", GET + fields(MAX_HEAD_BYTES // 15_000 + 1, 15_000) + b"\r\n"),
    "trailer": (431, "header x-0000", CHUNKED + b"0\r\n" + fields(1, MAX_FIELD_BYTES + 1)),
    "trailers": (431, "headers", CHUNKED + b"0\r\n" + fields(MAX_FIELDS, 8)),
    "endless trailer": (431, "head", CHUNKED + b"0\r\nX: " + b"a" * 1_000_000),
    "endless extension": (431, "head", CHUNKED + b"1;a=" + b"a" * 1_000_000),
    "extensions": (431, "head", CHUNKED + (b"1;a=" + b"a" * 10_000 + b"\r\n \r\n") * 100),
    "complete message": (
        431,
        "head",
        CHUNKED + b'15;a=%b\r\n{"candidates": ["1"]}\r\n0;a=%b\r\n' % ((b"a" * 70_000,) * 2),
    ),
    "leading zeros": (431, "head", CHUNKED + b"0" * 1_000_000),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_head_over_a_limit_is_refused_with_a_problem(client, url, kind):
    status, field, sent = TOO_LARGE[kind]
    (response,) = exchange(url, sent + b"\r\n")
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    problem = response.json()
    assert problem["code"] == {414: "target_too_long", 431: "head_too_large"}[status]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["errors"][0]["field"].startswith(field)
    assert problem["errors"][0]["rule"].startswith("at most")
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("pause", [40_000, 60_000, 64_000])
def test_a_message_over_the_limit_is_refused_however_its_bytes_arrive(url, pause):
    """The read in which the message begins counts as the later ones do."""
    extension = b"a" * (MAX_HEAD_BYTES // 2)
    sent = CHUNKED + b'15;a=%b\r\n{"candidates": ["1"]}\r\n0;a=%b\r\n\r\n' % ((extension,) * 2)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent[:pause])
        time.sleep(0.1)  # so that the rest arrives in a read of its own
        connection.sendall(sent[pause:])
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (404, b"GET /" + b"a" * (MAX_TARGET_BYTES - 1) + b" HTTP/1.1\r\nHost: x\r\n"),
        (200, GET + fields(1, MAX_FIELD_BYTES)),
        (200, GET + fields(MAX_FIELDS - 2, 8)),
        (200, GET + fields(4, 15_000)),
    ],
    ids=["target", "field", "number", "sum"],
)
def test_a_head_at_a_limit_is_served(url, status, sent):
    (response,) = exchange(url, sent + b"Connection: close\r\n\r\n")
    assert response.status == status


def test_a_body_in_tiny_chunks_is_read_whatever_its_framing_adds(url, items):
    content = json.dumps({**body(items), "request_id": "a" * 100}).encode() + b" " * 100_000
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
    (response,) = exchange(url, head, chunks, b"0\r\nX-Request-ID: trailer\r\n\r\n")
    assert response.status == 200
    assert response.json()["request_id"] == "a" * 100


def test_trailers_do_not_become_headers(url, items):
    content = json.dumps(body(items)).encode()
    head = CHUNKED.replace(b"Host", b"X-Request-ID: head\r\nConnection: close\r\nHost")
    (response,) = exchange(url, head + b"%x\r\n%b\r\n0\r\n" % (len(content), content),
                           b"X-Request-ID: trailer\r\nContent-Encoding: gzip\r\n\r\n")  # fmt: skip
    assert response.status == 200
    assert response.headers["x-request-id"] == "head"


@pytest.mark.alone
@pytest.mark.parametrize("start", [b"GET /", GET + b"X: ", GET], ids=["target", "field", "fields"])
def test_a_sender_of_megabytes_gets_the_refusal_and_does_not_delay_others(url, start):
    megabyte = fields(64, 16_000) if start is GET else b"a" * (1 << 20)
    answered, delays = [], []
    sender = threading.Thread(
        target=lambda: answered.extend(exchange(url, start, *itertools.repeat(megabyte, 24)))
    )
    with httpx.Client(base_url=url) as neighbour:
        sender.start()
        while sender.is_alive():
            began = time.monotonic()
            assert neighbour.get("/livez").status_code == 200
            delays.append(time.monotonic() - began)
        sender.join()
    assert [response.status for response in answered] == [414 if start == b"GET /" else 431]
    assert max(delays) < 1


HOSTS = {
    "none": (400, b"GET /livez HTTP/1.1\r\n"),
    "two": (400, b"GET /livez HTTP/1.1\r\nHost: a\r\nhost: a\r\n"),
    "path": (400, b"GET /livez HTTP/1.1\r\nHost: a/b\r\n"),
    "space": (400, b"GET /livez HTTP/1.1\r\nHost: a b\r\n"),
    "user": (400, b"GET /livez HTTP/1.1\r\nHost: a@b\r\n"),
    "two in 1.0": (400, b"GET /livez HTTP/1.0\r\nHost: a\r\nHost: b\r\n"),
    "none in 1.0": (200, b"GET /livez HTTP/1.0\r\n"),
    "name and port": (200, b"GET /livez HTTP/1.1\r\nHost: rerank.default.svc:8000\r\n"),
    "address": (200, b"GET /livez HTTP/1.1\r\nHost: [::1]:8000\r\n"),
    "empty": (200, b"GET /livez HTTP/1.1\r\nHost:\r\n"),
    "whole url": (200, b"GET http://b/livez HTTP/1.1\r\nHost: a\r\n"),
}


@pytest.mark.parametrize("kind", HOSTS)
def test_http_1_1_needs_exactly_one_valid_host(url, kind):
    status, sent = HOSTS[kind]
    (response,) = exchange(url, sent + b"Connection: close\r\n\r\n")
    assert response.status == status
    if status == 400:
        assert response.json()["code"] == "bad_http"
        assert response.json()["detail"].startswith("header Host: ")


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_versions_of_http_are_refused(url, version):
    (response,) = exchange(url, f"GET /livez HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    assert (response.status, response.json()["code"]) == (505, "bad_http")


@pytest.mark.parametrize(("version", "interim"), [("1.1", True), ("1.0", False)])
def test_expect_is_answered_with_100_in_http_1_1_only(url, items, version, interim):
    content = json.dumps(body(items)).encode()
    sent = post(content, "Expect: 100-continue", "Connection: close", version=version)
    with connect(url) as connection:
        connection.sendall(sent)
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n") is interim
    (response,) = responses(received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert response.status == 200


CODINGS = {
    "gzip below chunked": (501, "1.1", ["gzip, chunked"]),
    "in two headers": (501, "1.1", ["gzip", "chunked"]),
    "identity below chunked": (501, "1.1", ["identity, chunked"]),
    "gzip alone": (400, "1.1", ["gzip"]),
    "gzip above chunked": (400, "1.1", ["chunked, gzip"]),
    "chunked twice": (400, "1.1", ["chunked, chunked"]),
    "chunked in two headers": (400, "1.1", ["chunked", "chunked"]),
    "in http/1.0": (400, "1.0", ["chunked"]),
}


@pytest.mark.parametrize("kind", CODINGS)
def test_a_transfer_coding_besides_chunked_is_refused_and_ends_the_connection(client, url, kind):
    status, version, values = CODINGS[kind]
    codings = "".join(f"Transfer-Encoding: {value}\r\n" for value in values)
    head = f"POST /rerank HTTP/{version}\r\nHost: x\r\nConnection: keep-alive\r\n{codings}\r\n"
    content = b'15\r\n{"candidates": ["1"]}\r\n0\r\n\r\n'
    follower = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"  # it may not be read as a request
    (response,) = exchange(url, head.encode(), content, follower)
    assert (response.status, response.json()["code"]) == (status, "bad_http")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    if status == 501:
        assert response.json()["detail"] == (
            f"header Transfer-Encoding: chunked and nothing else, got {', '.join(values)!r}"
        )
    assert client.get("/livez").status_code == 200


def test_the_name_of_the_coding_chunked_may_be_in_capitals(url):
    head = CHUNKED.replace(b"chunked", b"Chunked\r\nConnection: close")
    (response,) = exchange(url, head, b'15\r\n{"candidates": ["1"]}\r\n0\r\n\r\n')
    assert response.status == 200
