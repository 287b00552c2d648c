"""Clients that are slow, hold a connection or disconnect."""

import json
import re
import socket
import time

import httpx
import pytest

from tests.support.bodies import body
from tests.support.fakes import Slow
from tests.support.servers import fresh


def connected(url):
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()
    return socket.create_connection((host, int(port)), timeout=20)


def head(path, length, **headers):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def closed_after(connection):
    """What still came, and how long it took until the other side closed."""
    began, came = time.monotonic(), b""
    while got := connection.recv(65536):
        came += got
    return came, time.monotonic() - began


PATIENCE_S = 0.4


@pytest.fixture(scope="module")
def impatient(session):
    with fresh(session, body_timeout_s=PATIENCE_S) as url:
        yield url


def test_a_head_that_does_not_arrive_closes_the_connection(impatient):
    whole = head("/rerank", 2)
    for sent in (b"", whole[:20], whole[:-2]):
        with connected(impatient) as connection:
            connection.sendall(sent)
            came, seconds = closed_after(connection)
        assert came == b""
        assert PATIENCE_S - 0.1 < seconds < 5


def test_the_next_head_of_a_kept_connection_has_as_long(impatient):
    with connected(impatient) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(1.5 * PATIENCE_S)  # idle between requests is no offence
        connection.sendall(b"GET /livez HTTP/1.1\r\nHo")
        came, seconds = closed_after(connection)
    assert came == b""
    assert PATIENCE_S - 0.1 < seconds < 5


def test_a_body_that_stalls_is_408_and_the_connection_is_closed(impatient):
    with connected(impatient) as connection:
        connection.sendall(head("/rerank", 100) + b'{"cand')
        came, seconds = closed_after(connection)
    assert PATIENCE_S - 0.1 < seconds < 5
    top, _, content = came.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in top.lower()
    assert json.loads(content)["code"] == "timeout"


def test_a_client_that_is_just_quick_enough_is_answered(impatient, items):
    content = json.dumps(body(items)).encode()
    sent = head("/rerank", len(content), Connection="close")
    with connected(impatient) as connection:
        for part in (sent, content):  # each in two halves, most of its time between them
            connection.sendall(part[:30])
            time.sleep(0.6 * PATIENCE_S)
            connection.sendall(part[30:])
        came, _ = closed_after(connection)
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    with connected(impatient) as connection:  # the twin: the same halves, too far apart
        connection.sendall(sent + content[:30])
        time.sleep(1.6 * PATIENCE_S)
        came, _ = closed_after(connection)
    assert came.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("trickle", [b"", b"x", b"xx"])
def test_who_is_answered_before_the_body_came_cannot_hold_the_connection_with_it(
    impatient, trickle
):
    with connected(impatient) as connection:
        connection.sendall(head("/nowhere", 1000))
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(trickle)
        came, seconds = closed_after(connection)
    assert came == b""
    assert PATIENCE_S - 0.1 < seconds < 5


def test_bytes_between_requests_do_not_keep_a_connection_open(session, monkeypatch):
    monkeypatch.setattr("service.server.KEEP_ALIVE_S", 1)
    with fresh(session) as url, connected(url) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        came, seconds = closed_after(connection)
    assert came == b""
    assert 0.5 < seconds < 5


def test_who_is_answered_before_the_body_came_may_send_it_and_go_on(impatient):
    with connected(impatient) as connection:
        connection.sendall(head("/nowhere", 10) + b"01234")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(b"56789")
        time.sleep(1.5 * PATIENCE_S)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        came, _ = closed_after(connection)
    assert came.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("leaves", [True, False])
def test_a_list_whose_client_left_while_it_waited_is_dropped_and_never_runs(session, items, leaves):
    slow = Slow(session, 0.3)
    settings = {"max_batch_size": 1, "brief_run_ms": 0}  # slow, though it was quick to warm up
    with fresh(slow, **settings) as url, connected(url) as first, connected(url) as second:
        content = [json.dumps(body(items, size)).encode() for size in (11, 12)]
        for connection, sent in zip((first, second), content, strict=True):
            connection.sendall(head("/rerank", len(sent)) + sent)
            time.sleep(0.1)  # the first runs, the second waits
        if leaves:
            second.close()
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
        if not leaves:
            assert second.recv(65536).startswith(b"HTTP/1.1 200")
        last = httpx.post(f"{url}/rerank", json=body(items, 13)).raise_for_status()
        text = httpx.get(f"{url}/metrics").text
    assert last.json()["degraded"] is None
    dropped = re.search(r'rerank_shed_total{reason="disconnected"} (\S+)', text)
    assert (dropped and float(dropped[1])) == (1.0 if leaves else None)
    assert 'outcome="error"' not in text  # who leaves is no error of ours
    assert slow.ran == ([11, 13] if leaves else [11, 12, 13])


def test_who_leaves_in_the_middle_of_a_body_is_no_error_of_the_service(session, items, caplog):
    with fresh(session) as url:
        with connected(url) as connection:
            connection.sendall(head("/rerank", 100) + b'{"can')
            time.sleep(0.1)
        time.sleep(0.1)
        httpx.post(f"{url}/rerank", json=body(items)).raise_for_status()
        text = httpx.get(f"{url}/metrics").text
    assert 'outcome="error"' not in text
    assert 'outcome="ok"' in text  # the twin: what happened is counted
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
