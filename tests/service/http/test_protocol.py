"""Bytes that are no HTTP request."""

import json
import re
import socket
import time

import pytest


@pytest.mark.parametrize(
    "sent",
    [
        b"BREW /rerank HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nBad name: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=["method", "header name", "header value", "proxy", "tls"],
)
def test_what_is_not_http_is_a_problem_too(client, url, sent):
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        head, body = connection.makefile("rb").read().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert problem["code"] == "bad_http"
    assert f"x-request-id: {problem['request_id']}".encode() in head
    assert client.get("/livez").status_code == 200


def test_a_websocket_handshake_is_a_request_like_any_other(client):
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for headers in (handshake, {name: handshake[name] for name in ("Connection", "Upgrade")}):
        refused = client.get("/rerank", headers=headers)
        assert refused.status_code == 405
        assert refused.headers["content-type"] == "application/problem+json"
    assert client.get("/livez", headers=handshake).json() == {"status": "live"}


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_an_offer_to_upgrade_loses_no_body(url, size):
    body = b'{"candidates": [{"id": "1"}], "slate_size": 1}'
    head = b"Connection: Upgrade\r\nHost: x\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    sent = b"POST /rerank HTTP/1.1\r\n" + head % len(body) + body
    sent += b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), size):  # in segments of every size
            connection.sendall(sent[start : start + size])
            time.sleep(0.001)
        answer = connection.makefile("rb").read()
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b'"slate":[{"id":"1"') < answer.index(b'{"status":"live"}')


def test_many_offers_in_one_segment_are_declined_one_by_one(url):
    offer = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(offer * 500 + last)
        answer = connection.makefile("rb").read()
    assert answer.count(b"HTTP/1.1 200 OK") == 501
