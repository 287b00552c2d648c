"""The comparison of servers, on one made of this service's own work."""

import contextlib
import copy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from loadtest.peers import PEERS, Peer, ladder
from loadtest.peers.work import Work
from loadtest.server import ServerError
from tests.service.conftest import BUNDLE


@contextlib.contextmanager
def plain(work, spoil=lambda content: content):
    """The work behind the standard library's server; `spoil` may change its answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            content = spoil(work.answer([body])[0])
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def work():
    return Work(BUNDLE)


PEER = Peer("Plain", "plain", "torch_fastapi.txt", "torch", "The standard library's server.")
ASKED = SimpleNamespace(bundle=BUNDLE, p99_ms=500.0, seconds=0.5, rounds=1)


def measured(monkeypatch, work, **spoil):
    @contextlib.contextmanager
    def started(peer, bundle):
        with plain(work, **spoil) as url:
            yield url

    monkeypatch.setattr(ladder, "started", started)
    monkeypatch.setattr(ladder.Bound, "__init__", bound_of)
    return ladder.measure([PEER], ASKED)


def bound_of(self, p99_ms):
    """A search that is over soon: at most 200 requests per second."""
    for name, value in (("p99_ms", p99_ms), ("precision", 0.5), ("most_rps", 200.0)):
        object.__setattr__(self, name, value)


def test_servers_are_compared_and_a_peer_that_answers_alike_is_told_so(monkeypatch, work):
    report = measured(monkeypatch, work)
    ours, theirs = report["rows"]
    assert (ours["server"], theirs["server"]) == ("this service", "Plain")
    assert theirs["same_answers"] is True
    assert min(ours["capacity_rps"], theirs["capacity_rps"]) > 0
    assert theirs["version"] == "2.13.0"
    text = ladder.written(report)
    assert "| Plain | 2.13.0 |" in text
    assert "The standard library's server." in text


def test_a_peer_that_answers_otherwise_is_told_so(monkeypatch, work):
    def spoil(content):
        return content.replace(b'"reasoning_steps":3', b'"reasoning_steps":2')

    assert measured(monkeypatch, work, spoil=spoil)["rows"][1]["same_answers"] is False


def test_answers_are_alike_to_the_digits_that_an_order_of_adding_leaves(work):
    answer = ladder.json.loads(work.answer([b'{"candidates": ["1", "296", "318"]}'])[0])
    assert ladder.alike(answer, copy.deepcopy(answer))
    for change, same in (
        ({"logprob": answer["slate"][0]["logprob"] + 1e-6}, True),
        ({"logprob": answer["slate"][0]["logprob"] + 1e-3}, False),
        ({"id": "593"}, False),
    ):
        other = copy.deepcopy(answer)
        other["slate"][0] |= change
        assert ladder.alike(answer, other) is same
    short = copy.deepcopy(answer)
    short["slate"].pop()
    assert not ladder.alike(answer, short)


def test_a_peer_without_its_environment_is_told_how_to_get_it():
    missing = Peer("None", "none", "none.txt", "none", "")
    with pytest.raises(ServerError, match="--install"), ladder.started(missing, BUNDLE):
        pass


def test_every_peer_pins_the_server_that_it_is():
    assert all(ladder.version(peer)[0].isdigit() for peer in PEERS)
