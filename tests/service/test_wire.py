"""Bytes that are no HTTP request."""

import json
import re
import socket

import pytest


@pytest.mark.parametrize(
    "sent",
    [
        b"BREW /rerank HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nBad name: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=["method", "header name", "header value", "tls"],
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
