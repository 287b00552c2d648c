"""Malformed HTTP and offers of an upgrade."""

import json
import socket
import time

import httpx
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
def test_malformed_http_is_refused_with_a_problem(client, url, sent):
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(sent)
        head, body = connection.makefile("rb").read().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert problem["code"] == "bad_http"
    assert f"x-request-id: {problem['request_id']}".encode() in head
    assert client.get("/livez").status_code == 200


def test_a_websocket_handshake_is_handled_as_a_plain_request(client):
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
def test_a_request_that_offers_an_upgrade_keeps_its_body(url, size):
    body = b'{"candidates": [{"id": "1"}], "slate_size": 1}'
    head = b"Connection: Upgrade\r\nHost: x\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    sent = b"POST /rerank HTTP/1.1\r\n" + head % len(body) + body
    sent += b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), size):  # in segments of every size
            connection.sendall(sent[start : start + size])
            time.sleep(0.001)
        response = connection.makefile("rb").read()
    assert response.count(b"HTTP/1.1 200 OK") == 2
    assert response.index(b'"slate":[{"id":"1"') < response.index(b'{"status":"live"}')


def test_pipelined_upgrade_offers_are_all_answered_without_an_upgrade(url):
    offer = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(offer * 500 + last)
        response = connection.makefile("rb").read()
    assert response.count(b"HTTP/1.1 200 OK") == 501
