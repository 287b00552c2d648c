"""The comparison of servers, with one peer that is made of this service's own work."""

import contextlib
import copy
import dataclasses
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadtest.capacity import Bound
from loadtest.scenarios import Catalogue, RequestOptions, scenario
from loadtest.server import ServerError
from peers import PEERS, Peer, comparison, ladder, progress, summary, to_bodies, to_v2, unchanged
from peers.comparison import Comparison, alike, for_peer
from peers.cost import machine_cpu_s
from peers.environments import version
from peers.options import LadderOptions
from peers.progress import Progress
from peers.report import page, write_html
from peers.servers import peer_server
from peers.turns import Durations
from peers.work import Work
from tests.support.bundles import BUNDLE

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "docs" / "reports"
PEER = Peer("Plain", "plain", "torch_fastapi.txt", "torch", "The standard library's server.")
OPTIONS = LadderOptions(bundle=BUNDLE, p99_ms=500.0, seconds=0.3, rounds=1)
SHORT = Durations(turn_s=0.5, warm_up_s=0.2, alone_s=0.1)
COARSE = Bound(500.0, 0.5, 200.0)  # a search that ends soon, at 200 requests per second


@contextlib.contextmanager
def plain_server(work, spoil):
    """Serve the work by the standard library's server; `spoil` may change its responses."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            content = spoil(work.handle([body])[0])
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


def keep_rounds(patch, directory):
    """Keep the file of finished rounds in a directory."""
    patch.setattr(progress, "ENVIRONMENTS", directory)
    patch.setattr(progress, "version", lambda peer: "1.0")
    return directory


@pytest.fixture
def progress_directory(monkeypatch, tmp_path):
    return keep_rounds(monkeypatch, tmp_path)


def comparer(patch, work, starts):
    """Return a function that compares with the plain server and lists the peers it started."""
    patch.setattr(summary, "version", lambda peer: "1.0")

    def run(options, spoil=lambda content: content, fails_at=None, scenarios=("ids",)):
        @contextlib.contextmanager
        def start(peer, bundle):
            starts.append(peer)
            if len(starts) == fails_at:
                raise KeyboardInterrupt
            with plain_server(work, spoil) as url:
                yield url

        rounds = Progress(options, ["this service", "Plain"])
        return Comparison(
            [PEER], options, rounds, scenarios=scenarios, bound=COARSE, durations=SHORT, start=start
        ).run()

    return run


@pytest.mark.long
def test_the_report_has_a_row_for_each_server_and_the_cost_of_a_list(
    monkeypatch, work, progress_directory
):
    options = dataclasses.replace(OPTIONS, baseline=ROOT)
    report = comparer(monkeypatch, work, [])(options, scenarios=("history", "ids"))
    servers = [(row["scenario"], row["server"]) for row in report["rows"]]
    assert servers == [
        (scenario, server)
        for scenario in ("history", "ids")
        for server in ("this service", "Plain")
    ]
    text = page(report)
    for row in report["rows"]:
        assert row["capacity_rps"] > 0
        if row["server"] == "Plain":
            assert (row["work"], row["same_answers"]) == ("exported", True)
            assert f"| Plain | exported | 1.0 | {row['capacity_rps']:.0f} |" in text
    assert "- **Plain**: The standard library's server." in text
    for name, turns in report["equal_load"].items():
        assert set(turns) == {"load_rps", "this service", "Plain", "this service, other commit"}
        for server in ("this service", "this service, other commit"):
            figures = turns[server]
            assert 0 < figures["run_cpu_ms"][0] < figures["cpu_ms"][0] < 100
            assert figures["lists_a_run"][0] >= 1
            assert f"{figures['run_cpu_ms'][0]:.3f} [" in text
        assert report["ours_over"][name]["exported"]["peer"] == "Plain"
    alone = {
        row["lists"]: row["run_ms"] for row in report["work_alone"] if row["work"] == "exported"
    }
    assert alone[16] < alone[1]


def take_other_steps(content):
    return content.replace(b'"reasoning_steps":3', b'"reasoning_steps":2')


@pytest.fixture(scope="module")
def continued(work, tmp_path_factory):
    """Interrupt a comparison with a peer that takes other steps; return its report and starts."""
    options = dataclasses.replace(OPTIONS, rounds=2)
    starts: list[Peer] = []
    with pytest.MonkeyPatch.context() as patch:
        keep_rounds(patch, tmp_path_factory.mktemp("rounds"))
        compare = comparer(patch, work, starts)
        with pytest.raises(KeyboardInterrupt):
            # In the second round; the first is kept.
            compare(options, take_other_steps, fails_at=2)
        return compare(options, take_other_steps), starts


@pytest.mark.long
def test_an_interrupted_comparison_continues_where_it_stopped(continued):
    report, starts = continued
    # The failed start, the second round's search, and two turns beside this service.
    assert len(starts) == 2 + 1 + 2
    assert report["rows"][1]["low"] > 0


def test_rounds_of_other_options_or_servers_are_not_used(progress_directory):
    kept = Progress(OPTIONS, ["a"])
    kept.rounds["a"].append({"rate": 7.0})
    kept.save()
    assert Progress(OPTIONS, ["a"]).rounds == {"a": [{"rate": 7.0}]}
    assert Progress(OPTIONS, ["a", "b"]).rounds == {"a": [], "b": []}
    assert Progress(dataclasses.replace(OPTIONS, seconds=0.4), ["a"]).rounds == {"a": []}


def test_more_rounds_continue_fewer_and_fewer_take_the_first_of_more(progress_directory):
    kept = Progress(dataclasses.replace(OPTIONS, rounds=2), ["a"])
    kept.rounds["a"] += [{"rate": 7.0}, {"rate": 8.0}]
    kept.save()
    three = Progress(dataclasses.replace(OPTIONS, rounds=3), ["a"])
    assert three.rounds == {"a": [{"rate": 7.0}, {"rate": 8.0}]}
    assert Progress(dataclasses.replace(OPTIONS, rounds=1), ["a"]).rounds == {"a": [{"rate": 7.0}]}


def test_rounds_of_code_with_uncommitted_changes_are_not_used(monkeypatch, progress_directory):
    monkeypatch.setattr(progress, "version", lambda peer: "1.0-dirty")
    uncommitted = Progress(OPTIONS, ["a"])
    uncommitted.rounds["a"].append({"rate": 7.0})
    uncommitted.save()
    assert Progress(OPTIONS, ["a"]).rounds == {"a": []}
    uncommitted.end()
    assert not list(progress_directory.iterdir())


@pytest.mark.long
def test_a_peer_that_takes_other_steps_is_reported_to_differ(continued):
    report, _ = continued
    assert report["rows"][1]["same_answers"] is False


def test_the_machines_cpu_time_leaves_out_idle_time_and_io_wait(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 4000 500 6 7 80 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert machine_cpu_s(stat) * os.sysconf("SC_CLK_TCK") == 100 + 20 + 30 + 6 + 7
    before, began = machine_cpu_s(), time.process_time()
    while time.process_time() - began < 0.3:
        pass
    assert machine_cpu_s() - before > 0.25


def test_responses_are_alike_to_the_digits_that_an_order_of_adding_leaves(work):
    response = json.loads(work.handle([b'{"candidates": ["1", "296", "318"]}'])[0])
    assert alike(response, copy.deepcopy(response))
    for change, same in (
        ({"logprob": response["slate"][0]["logprob"] + 1e-6}, True),
        ({"logprob": response["slate"][0]["logprob"] + 1e-3}, False),
        ({"id": "593"}, False),
    ):
        other = copy.deepcopy(response)
        other["slate"][0] |= change
        assert alike(response, other) is same
    short = copy.deepcopy(response)
    short["slate"].pop()
    assert not alike(response, short)


def test_starting_a_peer_without_its_environment_names_the_option_that_makes_it():
    missing = Peer("None", "none", "none.txt", "none", "")
    with pytest.raises(ServerError, match="--install"), peer_server(missing, BUNDLE):
        pass


def test_a_peer_gets_other_numbers_in_the_history_at_each_request():
    catalogue = Catalogue.of(BUNDLE)
    for encode in (unchanged, to_v2, to_bodies):
        peer = dataclasses.replace(PEER, encode=encode)
        sent = for_peer(scenario("history", catalogue, RequestOptions(5), count=2), peer)
        first, again = sent.bodies[0], sent.bodies[0]
        assert len(first) == len(again)
        assert first != again
        assert json.loads(first).keys() == json.loads(again).keys()


def test_every_peer_pins_the_version_of_its_server():
    assert all(version(peer)[0].isdigit() for peer in PEERS)


def test_only_takes_the_modules_of_peers(capsys):
    assert ladder.main(["--only", "torch_fastapi", "nginx"]) == 2
    error = capsys.readouterr().err
    assert "--only: 'nginx' is no peer; choose from torch_fastapi, lambdamart" in error


def test_a_directory_that_is_no_bundle_is_refused_in_one_line(progress_directory, capsys):
    assert ladder.main(["--bundle", str(progress_directory)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"loadtest: --bundle: {progress_directory}: ")


@pytest.mark.parametrize(
    ("same", "void", "status"),
    [(True, None, 0), (None, None, 0), (False, "busy", 1), (True, "busy", 3)],
)
def test_the_exit_status_tells_other_responses_from_a_busy_generator(
    monkeypatch, progress_directory, same, void, status
):
    report = json.loads((REPORTS / "peers.json").read_text("utf-8"))
    for row in report["rows"]:
        row["same_answers"], row["void"] = same, void
    monkeypatch.setattr(comparison.Comparison, "run", lambda self: report)
    assert ladder.main(["--out", str(progress_directory)]) == status


def test_the_committed_page_is_rendered_from_the_committed_figures():
    report = json.loads((REPORTS / "peers.json").read_text("utf-8"))
    assert page(report) == (REPORTS / "peers.md").read_text("utf-8")


def test_the_html_page_has_the_plot_of_the_committed_figures(tmp_path):
    write_html(REPORTS, tmp_path)
    text = (tmp_path / "peers.html").read_text()
    assert text.count("<svg") == 1
    assert "<h1>Peers</h1>" in text
