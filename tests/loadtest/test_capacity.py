"""Load at a rate, the search for capacity, their reports and what compares them."""

import contextlib
import json
import re
import socket
import threading
import time
from typing import get_args

import pytest

from loadtest.capacity import Bound, bisect, broken, capacity
from loadtest.cli import run_command
from loadtest.commands import Dimension
from loadtest.generators import generators
from loadtest.growth import points
from loadtest.openloop import Sample
from loadtest.results import Load, Offered
from loadtest.scenarios import Scenario
from loadtest.server import ServerError
from tests.support.bundles import BUNDLE

ANSWER = json.dumps(
    {
        "degraded": None,
        "reasoning": {"budget_per_position": 3, "steps_used": 7},
        "latency_ms": {"total": 2.0, "queue": 0.5, "inference": 1.0},
    }
).encode()
BODIES = Scenario("plain", "/rerank", [b"{}"])


@contextlib.contextmanager
def answering(delay_s=0.0, status=200):
    """A server of threads, each of which takes `delay_s` for an answer."""
    reply = b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (status, len(ANSWER)) + ANSWER
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    done, threads = threading.Event(), []

    def serve(connection):
        with connection:
            connection.settimeout(0.1)
            while not done.is_set():
                try:
                    if not connection.recv(65536):
                        return
                except TimeoutError:
                    continue
                time.sleep(delay_s)
                connection.sendall(reply)

    def accept():
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        for thread in threads:
            thread.join()
        listener.close()


@pytest.fixture(scope="module")
def sending():
    with generators(2) as found:
        yield found


def test_several_generators_offer_one_rate_and_the_warm_up_is_left_out(sending):
    with answering() as url:
        found = sending.offer(url, BODIES, Load(200, 2.0, warmup=0.5))
    report = found.report()
    assert report["requests"] == pytest.approx(400, abs=80)
    assert min(sample.due for sample in found.samples) >= 0.5
    assert (report["failed"], report["unranked"], report["void"]) == (0, 0, None)
    assert (report["steps_used"], report["budget"], report["queue_ms"]) == (7, 3, 0.5)


def test_a_slow_answer_is_as_slow_in_the_report(sending):
    with answering(0.05) as url:
        found = sending.offer(url, BODIES, Load(50, 1.0, warmup=0.2))
    assert 50 <= found.latency_ms(0.5) < 80


def test_what_is_answered_otherwise_has_failed_unless_it_was_expected(sending):
    refused = Scenario("bad", "/rerank", [b"{"], expected=(422,))
    with answering(status=422) as url:
        assert sending.offer(url, BODIES, Load(50, 0.5)).failed > 0
        assert sending.offer(url, refused, Load(50, 0.5)).failed == 0


def samples(latency_s, count=100, degraded=None, status=200):
    return [
        Sample(i / 100, i / 100 + latency_s, status, degraded, 3, sent=i / 100)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (samples(0.02), True),
        (samples(0.04), False),
        (samples(0.02, degraded="reduced_budget"), True),
        (samples(0.02, 99) + samples(0.02, 1, "overload"), False),
        (samples(0.02, 99) + samples(0.02, 1, status=503), False),
        (samples(0.02, 98) + samples(0.04, 2), False),
        ([], False),
    ],
)
def test_a_rate_holds_when_p99_is_in_time_and_all_are_ranked(found, kept):
    why = broken(Offered(Load(100, 1.0), found, 0.1, 0.1), Bound(p99_ms=30))
    assert (why is None) is kept


def test_a_search_ends_at_once_where_nobody_answers_and_tells_why_a_rate_does_not_hold(sending):
    told = []
    with pytest.raises(ServerError, match="every request failed: connection refused"):
        capacity(sending, "http://127.0.0.1:9", BODIES, Bound(), 0.5, progress=told.append)
    assert len(told) == 1
    assert "failed" in told[0]
    with answering(delay_s=0.05) as url:  # no rate keeps this bound, down to where none is due
        found = capacity(sending, url, BODIES, Bound(p99_ms=5), 0.1, 1, 20.0, progress=told.append)
    assert found.rates == [0.0]
    assert any("p99" in line for line in told)
    assert any("no request was due" in line for line in told)


def test_all_that_grows_can_be_asked_for_alone():
    assert {point.dimension for point in points(BUNDLE)} == set(get_args(Dimension))


def test_a_generator_without_a_core_to_spare_makes_a_run_void():
    assert Offered(Load(100, 1.0), samples(0.02), 0.5, 0.1).void is None
    assert "90% of a core" in Offered(Load(100, 1.0), samples(0.02), 0.9, 0.1).void


@pytest.mark.parametrize("start", [1.0, 100.0, 5000.0])
@pytest.mark.parametrize("truth", [0.0, 3.0, 700.0, 4321.0])
def test_bisection_comes_within_its_precision_from_wherever_it_starts(truth, start):
    found = bisect(lambda rate: rate <= truth, start, Bound(precision=0.04))
    assert found <= truth
    assert found * 1.04 >= truth or truth == found == 0.0


def test_capacity_of_a_service_is_searched_and_reported_as_a_page(tmp_path, capsys):
    asked = ["--seconds", "0.4", "--repeats", "1", "--p99-ms", "500", "--out", str(tmp_path)]
    assert run_command("capacity", asked) in (0, 3)  # 3: the generator may be the bottleneck here
    report = json.loads((tmp_path / "capacity.json").read_text())
    assert report["capacity_rps"] > 50
    assert report["low"] <= report["capacity_rps"] <= report["high"]
    holding = [r for r in report["runs"] if r["asked_rps"] <= report["capacity_rps"] + 0.1]
    assert all(run["latency_ms"]["p99"] <= 500 for run in holding[-1:])
    text = (tmp_path / "capacity.html").read_text()
    assert text.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)', text)  # nothing is fetched from elsewhere


def test_bench_writes_a_line_for_each_rate(tmp_path, capsys):
    asked = ["--rate", "20", "40", "--seconds", "1", "--warmup", "0.2", "--scenario", "history"]
    assert run_command("bench", [*asked, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [run["asked_rps"] for run in report["runs"]] == [20, 40]
    assert report["scenario"] == "history"


def test_bench_says_that_every_request_failed_and_why(tmp_path, capsys):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        asked = ["--url", url, "--rate", "20", "--seconds", "0.5", "--warmup", "0.1"]
        assert run_command("bench", [*asked, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"every request to {url} failed: connection refused (" in said
    assert str(tmp_path / "bench.html") in said


@pytest.mark.parametrize("name", ["bench", "capacity"])
def test_what_cannot_be_asked_is_said_in_a_line(name, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert run_command(name, ["--candidates", "100000", *out]) == 2
    assert "--candidates: 1 to" in capsys.readouterr().err
    assert run_command(name, ["--bundle", str(tmp_path / "none"), *out]) == 2
    assert "none" in capsys.readouterr().err
    assert BUNDLE.exists()


def written(path, p99=5.0, **more):
    run = {"asked_rps": 100, "latency_ms": {"p50": 2.0, "p99": p99}, "achieved_rps": 100.0}
    path.write_text(json.dumps({"machine": "m", "runs": [run], **more}))
    return str(path)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_rate_that_is_not_above_0_is_refused_in_one_line(capsys, rate):
    assert run_command("bench", ["--rate", "100", rate]) == 2
    errors = capsys.readouterr().err
    assert "--rate: must be a number above 0, got" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--rate", "x"], ["--no-such-option"], ["--scenario", "x"]])
def test_arguments_that_do_not_parse_are_refused_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as refused:
        run_command("bench", arguments)
    assert refused.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost:8000", "https://example.org"])
def test_a_url_without_http_is_refused_with_an_example(capsys, url):
    assert run_command("bench", ["--url", url]) == 2
    errors = capsys.readouterr().err
    assert f"--url: must begin with http:// (TLS is not supported), got '{url}'" in errors
    assert "http://127.0.0.1:8000" in errors


def test_compare_tells_what_got_worse_by_its_exit_code(tmp_path, capsys):
    before, after = written(tmp_path / "a.json"), written(tmp_path / "b.json", p99=6.0)
    assert run_command("compare", [before, before]) == 0
    assert run_command("compare", [before, after]) == 1
    assert "p99 ms at 100/s" in capsys.readouterr().out
    assert run_command("compare", [after, before]) == 0
    assert run_command("compare", [before, after, "--tolerance", "0.3"]) == 0
    run = json.loads((tmp_path / "a.json").read_text())
    run["runs"][0] |= {"unranked": 7, "achieved_rps": 0.0}
    (tmp_path / "c.json").write_text(json.dumps(run))
    capsys.readouterr()
    assert run_command("compare", [before, str(tmp_path / "c.json")]) == 1
    assert capsys.readouterr().out.count(" worse") == 2


def test_a_capacity_is_worse_only_where_the_repeats_do_not_overlap(tmp_path, capsys):
    before = written(tmp_path / "a.json", capacity_rps=100, low=80, high=120)
    near = written(tmp_path / "b.json", capacity_rps=85, low=70, high=90)
    far = written(tmp_path / "c.json", capacity_rps=70, low=65, high=75)
    assert [run_command("compare", [before, each]) for each in (near, far)] == [0, 1]


def test_reports_that_share_nothing_or_are_none_are_refused(tmp_path, capsys):
    report = written(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"runs": []}')
    (tmp_path / "c.json").write_text("{}")
    written(tmp_path / "e.json", scenario="history")
    written(tmp_path / "f.json", capacity_rps=100, low=80, high=120)
    for other, said in (
        ("b.json", "no rate is in both"), ("c.json", "not a report"), ("d", "d"),
        ("e.json", "scenario differs"), ("f.json", "one is a report of capacity"),
    ):  # fmt: skip
        assert run_command("compare", [report, str(tmp_path / other)]) == 2
        assert said in capsys.readouterr().err
