"""A response that belongs to another request is never returned, whatever mixed them up."""

import contextlib
import json
import socketserver
import threading

import pytest

from rerank_client import Failed, Refused
from tests.support.scripted import reply, response_to, scripted


def keep_open(content):
    return content.replace(b"Connection: close\r\n", b"")


def problem(status, request_id, code="invalid_request"):
    return reply(status, {"code": code, "detail": "d", "request_id": request_id, "errors": []})


class OffByOne(socketserver.ThreadingTCPServer):
    """Keeps connections open; on the first one each request gets the response before its own."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), OffByOneHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.connections = 0


class OffByOneHandler(socketserver.StreamRequestHandler):
    server: OffByOne

    def handle(self):
        self.server.connections += 1
        shifted = self.server.connections == 1
        before = response_to({"candidates": [{"id": "of another user"}]}, "another")
        while self.rfile.readline():
            headers = {}
            while line := self.rfile.readline().strip():
                name, _, value = line.decode().partition(": ")
                headers[name.lower()] = value
            body = json.loads(self.rfile.read(int(headers["content-length"])))
            current = response_to(body, headers["x-request-id"])
            self.wfile.write(keep_open(reply(body=before if shifted else current)))
            before = current


@pytest.fixture
def shifted():
    with OffByOne() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with contextlib.ExitStack() as stack:
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            yield server


def test_a_connection_with_responses_of_others_is_not_used_again(connect, shifted):
    client = connect(shifted.url)
    first = client.rerank(["a", "b"])
    assert (first.ids, first.degraded) == (("a", "b"), "client: foreign answer")
    later = [client.rerank([f"a{n}", f"b{n}"]) for n in range(5)]
    assert [response.degraded for response in later] == [None] * 5
    assert [response.ids for response in later] == [(f"b{n}", f"a{n}") for n in range(5)]
    assert shifted.connections == 2


def test_a_response_with_another_request_id_is_not_returned(connect):
    def foreign(body, request_id):
        return reply(body=response_to(body, "another"))

    with scripted(foreign) as server:
        assert connect(server.url).rerank(["a"]).degraded == "client: foreign answer"
        with pytest.raises(Failed, match="request_id: expected 'mine', got 'another'") as raised:
            connect(server.url, fallback=False).rerank(["a"], request_id="mine")
    assert (raised.value.reason, raised.value.request_id) == ("foreign answer", "mine")


@pytest.mark.parametrize(
    "candidates", [["x", "y", "z"], ["b", "a", "c"], ["a"], [{"id": 1}, {"id": 2}]]
)
def test_a_slate_of_another_request_with_the_same_id_is_not_returned(connect, candidates):
    entries = [one if isinstance(one, dict) else {"id": one} for one in candidates]

    def foreign(body, request_id):
        return reply(body=response_to({"candidates": entries}, request_id))

    with scripted(foreign) as server:
        response = connect(server.url).rerank(["p", "q"], request_id="page")
    assert (response.ids, response.degraded) == (("p", "q"), "client: foreign answer")


def test_a_batch_with_one_list_of_another_request_is_not_returned(connect):
    def foreign(body, request_id):
        ids = [f"{request_id}.{i}" for i in (0, 2)]
        lists = zip(body["requests"], ids, strict=True)
        return reply(body={"responses": [response_to(entry, name) for entry, name in lists]})

    with scripted(foreign) as server:
        responses = connect(server.url).rerank_many([{"candidates": ["a"]}, {"candidates": ["b"]}])
    assert [response.ids for response in responses] == [("a",), ("b",)]
    assert [response.degraded for response in responses] == ["client: foreign answer"] * 2


def test_a_refusal_of_another_request_is_not_raised(connect):
    with scripted(keep_open(problem(422, "another"))) as server:
        assert connect(server.url).rerank(["a"]).degraded == "client: foreign answer"
        with pytest.raises(Failed, match="status 422 of request 'another'"):
            connect(server.url, fallback=False).rerank(["a"])


def test_a_refusal_before_the_id_was_read_is_raised_with_the_id_of_the_service(connect):
    with scripted(problem(400, "made up", code="bad_http")) as server, pytest.raises(Refused) as e:
        connect(server.url).rerank(["a"])
    assert (e.value.code, e.value.request_id) == ("bad_http", "made up")


def test_a_head_that_the_service_cannot_read_is_a_refusal_and_no_mix_up(connect, url):
    with pytest.raises(Refused) as raised:
        connect(url, api_key="k" * 40_000).rerank(["1"], request_id="mine")
    assert raised.value.status == 431
    assert raised.value.request_id != "mine"  # the id is in the head
