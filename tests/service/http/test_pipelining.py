"""Pipelined requests and half-closed connections: every complete request is answered, in order."""

import json
import re
import socket
import time

import httpx
import pytest

from tests.support.bodies import body
from tests.support.fakes import Slow
from tests.support.servers import fresh
from tests.support.wire import connect, exchange, post, read_all, responses

GARBAGE = b"BREW /coffee HTTP/1.1\r\n\r\n"
LONG_TARGET = b"GET /" + b"a" * 10_000


def rank(items, request_id, *lines):
    content = json.dumps(body(items, request_id=request_id)).encode()
    return post(content, *lines)


def ids(answers):
    return [answer.json()["request_id"] for answer in answers]


def assert_no_server_error(url, caplog):
    text = httpx.get(f"{url}/metrics").text
    assert 'outcome="error"' not in text
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    return text


def test_clients_that_leave_pipelined_requests_are_no_server_errors(session, items, caplog):
    with fresh(session) as url:
        for delay in range(20):
            with connect(url) as connection:
                connection.sendall(b"".join(rank(items, str(i)) for i in range(4)))
                time.sleep(0.002 * delay)
        time.sleep(0.2)
        httpx.post(f"{url}/rerank", json=body(items)).raise_for_status()
        text = assert_no_server_error(url, caplog)
    assert 'outcome="ok"' in text


def test_requests_queued_behind_that_of_a_departed_client_never_run(session, items, caplog):
    slow = Slow(session, 0.3)
    with fresh(slow, max_batch_size=1, brief_run_ms=0) as url:
        with connect(url) as connection:
            connection.sendall(b"".join(rank(items[:size], str(size)) for size in (24, 25, 26)))
            time.sleep(0.1)
        httpx.post(f"{url}/rerank", json=body(items, 13)).raise_for_status()
        assert_no_server_error(url, caplog)
    assert slow.ran == [24, 13]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_half_closed_connection_gets_its_response(session, items, version):
    content = json.dumps(body(items)).encode()
    with fresh(Slow(session, 0.3), brief_run_ms=0) as url:  # long enough to look for a reset
        (response,) = exchange(url, post(content, version=version), half_close=True)
    assert response.status == 200
    assert response.headers["connection"] == "close"
    assert len(response.json()["slate"]) == 10


def test_a_half_closed_connection_gets_the_responses_to_all_pipelined_requests(url, items):
    sent = [rank(items, str(i)) for i in range(5)]
    answers = exchange(url, *sent, half_close=True)
    assert ids(answers) == ["0", "1", "2", "3", "4"]


def test_a_half_closed_connection_with_expect_gets_its_response(url, items):
    with connect(url) as connection:
        connection.sendall(rank(items, "7", "Expect: 100-continue"))
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert ids(responses(received)) == ["7"]


@pytest.mark.parametrize("cut", [30, 200], ids=["head", "body"])
def test_a_request_cut_off_by_a_half_close_is_dropped_and_those_before_it_answered(
    session, items, cut, caplog
):
    with fresh(session) as url:
        sent = rank(items, "0") + rank(items, "1") + rank(items, "2")[:cut]
        assert ids(exchange(url, sent, half_close=True)) == ["0", "1"]
        assert exchange(url, rank(items, "2")[:cut], half_close=True) == []
        assert_no_server_error(url, caplog)


@pytest.mark.alone
def test_a_client_that_closes_its_connection_during_the_run_still_cancels_it(session, items):
    slow = Slow(session, 0.4)
    with fresh(slow, max_batch_size=1, brief_run_ms=0) as url:
        with connect(url) as first, connect(url) as second:
            first.sendall(rank(items[:24], "first"))
            time.sleep(0.1)
            second.sendall(rank(items[:25], "second"))
            time.sleep(0.1)
            second.close()
            assert first.recv(1 << 16).startswith(b"HTTP/1.1 200")
        text = httpx.get(f"{url}/metrics").text
    assert slow.ran == [24]
    assert re.search(r'rerank_shed_total{reason="disconnected"} 1.0', text)


@pytest.mark.parametrize(
    ("last", "status"),
    [(GARBAGE, 400), (LONG_TARGET, 414), (b"GET / HTTP/1.1\r\n\r\n", 400)],
    ids=["garbage", "long target", "no host"],
)
@pytest.mark.parametrize("half_close", [False, True])
def test_a_refusal_follows_the_responses_to_the_requests_before_it(
    url, items, last, status, half_close
):
    answers = exchange(url, rank(items, "0") + rank(items, "1") + last, half_close=half_close)
    assert [answer.status for answer in answers] == [200, 200, status]
    assert ids(answers[:2]) == ["0", "1"]


def test_a_malformed_body_is_refused_after_the_responses_before_it(session, items, caplog):
    chunked = b"POST /rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"
    with fresh(session) as url:
        for before in ([], [rank(items, "0")], [rank(items, "0"), rank(items, "1")]):
            answers = exchange(url, b"".join([*before, chunked]))
            assert [answer.status for answer in answers] == [200] * len(before) + [400]
        assert_no_server_error(url, caplog)


def test_an_incomplete_head_that_times_out_does_not_cost_the_request_before_it(session, items):
    slow = Slow(session, 0.8)
    with fresh(slow, body_timeout_s=0.3, brief_run_ms=0) as url:
        answers = exchange(url, rank(items, "0") + b"GET /livez HTT")
    assert ids(answers) == ["0"]
