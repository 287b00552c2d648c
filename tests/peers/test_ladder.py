"""The comparison of servers, on one made of this service's own work."""

import contextlib
import copy
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from loadtest.server import ServerError
from peers import PEERS, Peer, ladder
from peers.work import Work
from tests.support.bundles import BUNDLE


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


@pytest.fixture
def measured(monkeypatch, work, tmp_path):
    """`measure` with the plain server as the only peer; counts the times that it was started."""
    count = SimpleNamespace(started=0)
    monkeypatch.setattr(ladder, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(ladder, "version", lambda peer: "1.0")
    monkeypatch.setattr(ladder, "TURN_S", 1.0)
    monkeypatch.setattr(ladder, "ALONE_S", 0.1)
    monkeypatch.setattr(ladder.Bound, "__init__", bound_of)

    def measure(asked=ASKED, spoil=lambda content: content, fails_at=None):
        @contextlib.contextmanager
        def started(peer, bundle):
            count.started += 1
            if count.started == fails_at:
                raise KeyboardInterrupt
            with plain(work, spoil) as url:
                yield url

        monkeypatch.setattr(ladder, "started", started)
        return ladder.measure([PEER], asked, ladder.Progress(asked, ["this service", "Plain"]))

    measure.count = count
    return measure


def bound_of(self, p99_ms):
    """A search that is over soon: at most 200 requests per second."""
    for name, value in (("p99_ms", p99_ms), ("precision", 0.5), ("most_rps", 200.0)):
        object.__setattr__(self, name, value)


def test_servers_are_compared_and_a_peer_that_answers_alike_is_told_so(measured):
    report = measured()
    ours, theirs = report["rows"]
    assert (ours["server"], theirs["server"]) == ("this service", "Plain")
    assert theirs["same_answers"] is True
    assert min(ours["capacity_rps"], theirs["capacity_rps"]) > 0
    text = ladder.written(report)
    assert "| Plain | 1.0 |" in text
    assert "The standard library's server." in text
    equal = report["equal_load"]["this service"]
    assert 0 < equal["run_cpu_ms"][0] < equal["cpu_ms"][0] < 100
    assert equal["lists_a_run"][0] >= 1
    alone = {row["lists"]: row["run_ms"] for row in report["work_alone"]}
    assert alone[16] < alone[1]
    assert f"{equal['run_cpu_ms'][0]:.3f} [" in text


def test_an_interrupted_comparison_goes_on_where_it_was(measured):
    asked = SimpleNamespace(**{**vars(ASKED), "rounds": 2})
    with pytest.raises(KeyboardInterrupt):
        measured(asked, fails_at=2)  # in the second round; the first is kept
    report = measured(asked)
    assert measured.count.started == 2 + 1 + 2  # the second round's search, two turns beside ours
    assert report["rows"][1]["low"] > 0


def test_rounds_of_another_question_are_not_gone_on_with(monkeypatch, measured):
    kept = ladder.Progress(ASKED, ["a"])
    kept.found["a"].append({"rate": 7.0})
    kept.save()
    assert ladder.Progress(ASKED, ["a"]).found == {"a": [{"rate": 7.0}]}
    assert ladder.Progress(ASKED, ["a", "b"]).found == {"a": [], "b": []}
    longer = SimpleNamespace(**{**vars(ASKED), "seconds": 0.4})
    assert ladder.Progress(longer, ["a"]).found == {"a": []}
    more = SimpleNamespace(**{**vars(ASKED), "rounds": 2})
    assert ladder.Progress(more, ["a"]).found == {"a": []}
    monkeypatch.setattr(ladder, "version", lambda peer: "1.0-dirty")
    unnamed = ladder.Progress(ASKED, ["a"])
    unnamed.found["a"].append({"rate": 7.0})
    unnamed.save()
    assert ladder.Progress(ASKED, ["a"]).found == {"a": []}
    unnamed.end()
    assert not list(ladder.ENVIRONMENTS.iterdir())


def test_a_peer_that_answers_otherwise_is_told_so(measured):
    def spoil(content):
        return content.replace(b'"reasoning_steps":3', b'"reasoning_steps":2')

    assert measured(spoil=spoil)["rows"][1]["same_answers"] is False


def test_what_the_machine_did_is_not_what_it_waited(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 4000 500 6 7 80 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert ladder.busy_s(stat) * ladder.os.sysconf("SC_CLK_TCK") == 100 + 20 + 30 + 6 + 7
    before, began = ladder.busy_s(), time.process_time()
    while time.process_time() - began < 0.3:
        pass
    assert ladder.busy_s() - before > 0.25


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
