"""Clients that are slow, hold a connection or disconnect."""

import json
import re
import signal
import socket
import time

import httpx
import pytest

from tests.support.bodies import body
from tests.support.fakes import Slow
from tests.support.redis_servers import redis_server
from tests.support.servers import fresh

pytestmark = pytest.mark.alone


def connect(url):
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port), timeout=20)


def head(path, length, **headers):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_until_close(connection):
    """Return the remaining bytes and the seconds until the other side closed."""
    began, received = time.monotonic(), b""
    while chunk := connection.recv(65536):
        received += chunk
    return received, time.monotonic() - began


TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def short_timeout_url(session):
    with fresh(session, body_timeout_s=TIMEOUT_S) as url:
        yield url


def test_an_incomplete_head_closes_the_connection_after_the_timeout(short_timeout_url):
    whole = head("/rerank", 2)
    for content in (b"", whole[:20], whole[:-2]):
        with connect(short_timeout_url) as connection:
            connection.sendall(content)
            received, seconds = read_until_close(connection)
        assert received == b""
        assert TIMEOUT_S - 0.1 < seconds < 5


def test_the_next_head_of_a_kept_connection_has_the_same_timeout(short_timeout_url):
    with connect(short_timeout_url) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(1.5 * TIMEOUT_S)  # idle time between requests has no such limit
        connection.sendall(b"GET /livez HTTP/1.1\r\nHo")
        received, seconds = read_until_close(connection)
    assert received == b""
    assert TIMEOUT_S - 0.1 < seconds < 5


def test_an_incomplete_body_gets_408_and_the_connection_is_closed(short_timeout_url):
    with connect(short_timeout_url) as connection:
        connection.sendall(head("/rerank", 100) + b'{"cand')
        received, seconds = read_until_close(connection)
    assert TIMEOUT_S - 0.1 < seconds < 5
    top, _, content = received.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in top.lower()
    assert json.loads(content)["code"] == "timeout"


def test_a_slow_client_within_the_timeout_gets_its_response(short_timeout_url, items):
    content = json.dumps(body(items)).encode()
    request_head = head("/rerank", len(content), Connection="close")
    with connect(short_timeout_url) as connection:
        for part in (
            request_head,
            content,
        ):  # each in two parts, with most of the timeout in between
            connection.sendall(part[:30])
            time.sleep(0.6 * TIMEOUT_S)
            connection.sendall(part[30:])
        received, _ = read_until_close(connection)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    with connect(short_timeout_url) as connection:  # the same parts, too far apart, are refused
        connection.sendall(request_head + content[:30])
        time.sleep(1.6 * TIMEOUT_S)
        received, _ = read_until_close(connection)
    assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("extra", [b"", b"x", b"xx"])
def test_an_unread_body_cannot_hold_the_connection_after_the_response(short_timeout_url, extra):
    with connect(short_timeout_url) as connection:
        connection.sendall(head("/nowhere", 1000))
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(extra)
        received, seconds = read_until_close(connection)
    assert received == b""
    assert TIMEOUT_S - 0.1 < seconds < 5


def test_bytes_between_requests_do_not_keep_a_connection_open(session, monkeypatch):
    monkeypatch.setattr("service.server.KEEP_ALIVE_S", 1)
    with fresh(session) as url, connect(url) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        received, seconds = read_until_close(connection)
    assert received == b""
    assert 0.5 < seconds < 5


def test_a_client_may_complete_an_unread_body_after_the_response_and_continue(short_timeout_url):
    with connect(short_timeout_url) as connection:
        connection.sendall(head("/nowhere", 10) + b"01234")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(b"56789")
        time.sleep(1.5 * TIMEOUT_S)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received, _ = read_until_close(connection)
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("disconnects", [True, False])
def test_a_queued_list_of_a_disconnected_client_never_runs(session, items, disconnects):
    slow = Slow(session, 0.3)
    settings = {"max_batch_size": 1, "brief_run_ms": 0}  # 0: the fake's warm-up times are too short
    with fresh(slow, **settings) as url, connect(url) as first, connect(url) as second:
        contents = [json.dumps(body(items, size)).encode() for size in (11, 12)]
        for connection, content in zip((first, second), contents, strict=True):
            connection.sendall(head("/rerank", len(content)) + content)
            time.sleep(0.1)  # the first runs, the second waits
        if disconnects:
            second.close()
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
        if not disconnects:
            assert second.recv(65536).startswith(b"HTTP/1.1 200")
        last = httpx.post(f"{url}/rerank", json=body(items, 13)).raise_for_status()
        text = httpx.get(f"{url}/metrics").text
    assert last.json()["degraded"] is None
    shed = re.search(r'rerank_shed_total{reason="disconnected"} (\S+)', text)
    assert (shed and float(shed[1])) == (1.0 if disconnects else None)
    assert 'outcome="error"' not in text  # a disconnect is no server error
    assert slow.ran == ([11, 13] if disconnects else [11, 12, 13])


@pytest.mark.parametrize("disconnects", [True, False])
def test_a_list_whose_client_leaves_during_its_lookup_is_not_ranked(
    session, items, tmp_path, disconnects
):
    ranks = Slow(session, 0)
    with redis_server("redis", tmp_path) as server:
        address = f"redis://127.0.0.1:{server.port}/0"
        with fresh(ranks, state=address, state_timeout_ms=30_000) as url, connect(url) as client:
            content = json.dumps({**body(items, 11), "user": {"id": "u1"}}).encode()
            server.process.send_signal(signal.SIGSTOP)
            client.sendall(head("/rerank", len(content)) + content)
            time.sleep(0.2)  # the lookup waits
            if disconnects:
                client.close()
                time.sleep(0.2)
            server.process.send_signal(signal.SIGCONT)
            if not disconnects:
                assert client.recv(65536).startswith(b"HTTP/1.1 200")
            next_call = {"requests": [{**body(items, 12), "user": {"id": "u2"}}]}
            httpx.post(f"{url}/rerank/batch", json=next_call, timeout=30).raise_for_status()
            text = httpx.get(f"{url}/metrics").text
    assert ranks.ran == ([12] if disconnects else [11, 12])
    shed = re.search(r'rerank_shed_total{reason="disconnected"} (\S+)', text)
    assert (shed and float(shed[1])) == (1.0 if disconnects else None)
    assert 'outcome="error"' not in text


def test_a_disconnect_in_the_middle_of_a_body_is_no_server_error(session, items, caplog):
    with fresh(session) as url:
        with connect(url) as connection:
            connection.sendall(head("/rerank", 100) + b'{"can')
            time.sleep(0.1)
        time.sleep(0.1)
        httpx.post(f"{url}/rerank", json=body(items)).raise_for_status()
        text = httpx.get(f"{url}/metrics").text
    assert 'outcome="error"' not in text
    assert 'outcome="ok"' in text  # other requests are counted
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
