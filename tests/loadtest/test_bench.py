"""Rates that are offered, their reports, and the exit status of bench."""

import json
import resource
import signal
import subprocess
import sys

import pytest

from loadtest import openloop
from loadtest.cli import run_command
from loadtest.commands import COMMANDS
from loadtest.generators import generators
from loadtest.results import Load, RateResult
from loadtest.scenarios import Scenario
from tests.support.bundles import ROOT
from tests.support.stub_servers import RANKED, http, stub_server, unused_url, wait_for

BODIES = Scenario("plain", "/rerank", [b"{}"])
# Commands that read none, or have no --out.
WITHOUT_BUNDLE = {"compare", "load", "fuzz", "agree", "html", "loop"}
SHORT = ["--seconds", "0.5", "--warmup", "0.1", "--scenario", "ids"]


@pytest.fixture(scope="module")
def load_generators():
    with generators(2) as started:
        yield started


@pytest.mark.alone
def test_several_generators_share_one_rate_and_the_warm_up_is_left_out(load_generators):
    with stub_server() as url:
        result = load_generators.offer(url, BODIES, Load(400, 1.0, warmup=0.3))
    report = result.report()
    assert report["requests"] == pytest.approx(400, abs=80)
    assert min(sample.due for sample in result.samples) >= 0.3
    assert (report["failed"], report["unranked"], report["void"]) == (0, 0, None)
    assert (report["steps_used"], report["budget"], report["queue_ms"]) == (7, 3, 0.5)


@pytest.mark.alone
def test_the_delay_of_the_server_is_in_the_latency(load_generators):
    with stub_server(delay_s=0.05) as url:
        result = load_generators.offer(url, BODIES, Load(50, 1.0, warmup=0.2))
    assert 50 <= result.latency_ms(0.5) < 80


def test_a_status_other_than_the_expected_one_is_a_failure(load_generators):
    refused = Scenario("bad", "/rerank", [b"{"], expected=(422,))
    with stub_server(reply=http(status=422)) as url:
        assert load_generators.offer(url, BODIES, Load(50, 0.5)).failed > 0
        assert load_generators.offer(url, refused, Load(50, 0.5)).failed == 0


@pytest.mark.parametrize(
    ("kind", "server"),
    [
        ("status 503", {"reply": http(status=503)}),
        ("connection reset", {"close": True}),
        ("unreadable response", {"reply": b"SSH-2.0-OpenSSH\r\n"}),
        ("unreadable body", {"reply": http(RANKED[:-3])}),
        ("connection refused", None),
    ],
)
def test_failures_are_counted_by_kind(load_generators, kind, server):
    with unused_url() if server is None else stub_server(**server) as url:
        report = load_generators.offer(url, BODIES, Load(40, 0.5, warmup=0.1)).report()
    assert report["failed"] > 0
    assert report["failures"] == {kind: report["failed"]}


def test_a_request_without_a_response_is_counted_as_a_timeout(monkeypatch):
    monkeypatch.setattr(openloop, "PATIENCE_S", 0.5)
    with stub_server(delay_s=60.0) as url:
        samples = openloop.run(openloop.open_loop(url, BODIES.bodies, [(20, 0.5)], 0))
    report = RateResult(Load(20, 0.5), samples, 0.1, 0.1).report()
    assert report["requests"] > 0
    assert report["failures"] == {"timeout": report["requests"]}
    assert report["latency_ms"]["p50"] >= 500


def test_kinds_of_failures_are_in_json_page_and_message(tmp_path, capsys):
    with unused_url() as url:
        arguments = ["--url", url, "--rate", "40", *SHORT, "--out", str(tmp_path)]
        assert run_command("bench", arguments) == 1
    (run,) = json.loads((tmp_path / "bench.json").read_text())["runs"]
    failures = f"connection refused ({run['failed']})"
    assert f"every request to {url} failed: {failures}" in capsys.readouterr().err
    assert f">{failures}</td>" in (tmp_path / "bench.html").read_text()


def test_a_generator_without_file_descriptors_voids_the_run(tmp_path):
    def limit_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with stub_server(delay_s=1.0) as url:
        done = subprocess.run(
            [sys.executable, "-m", "loadtest", "bench", "--url", url, "--rate", "200",
             "--seconds", "1", "--warmup", "0.1", "--out", str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limit_files,
        )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "200/s is void: generator out of sockets for" in done.stderr
    (run,) = json.loads((tmp_path / "bench.json").read_text())["runs"]
    assert run["failures"]["generator out of sockets"] > 0
    assert run["void"].startswith("generator out of sockets for")


def test_a_generator_that_used_a_core_voids_the_run(load_generators):
    with stub_server() as url:
        samples = load_generators.offer(url, BODIES, Load(50, 0.5)).samples
    assert RateResult(Load(50, 0.5), samples, 0.5, 0.1).void is None
    assert RateResult(Load(50, 0.5), samples, 0.9, 0.1).void == "a generator used 90% of a core"


def test_bench_reports_each_rate_with_its_scenario(tmp_path, capsys):
    arguments = ["--rate", "20", "40", "--seconds", "0.5", "--warmup", "0.2"]
    assert run_command("bench", [*arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert (report["scenario"], report["interrupted"]) == ("history", False)
    (beside,) = report["beside"]
    assert beside["scenario"] == "ids"
    for section, hits in ((report, 0.0), (beside, None)):
        assert [run["asked_rps"] for run in section["runs"]] == [20, 40]
        assert section["history_cache_hits"] == hits
    assert "<h2>scenario ids</h2>" in (tmp_path / "bench.html").read_text()
    assert str(tmp_path / "bench.html") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "number"),
    [("bench", signal.SIGINT), ("bench", signal.SIGTERM), ("capacity", signal.SIGTERM)],
)
def test_what_finished_before_an_interrupt_is_written(name, number, tmp_path):
    rates = {"bench": ["--warmup", "0", "--rate", *["20"] * 60], "capacity": []}[name]
    into_a_later_rate = {"bench": 30, "capacity": 500}[name]  # requests
    times: list[float] = []
    with stub_server(times=times) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest", name, "--url", url, *rates, "--seconds", "1",
             "--out", str(tmp_path)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: len(times) > into_a_later_rate)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["interrupted"] is True
    assert 0 < len(report["runs"]) < 60
    assert (tmp_path / f"{name}.html").exists()


def test_one_scenario_alone_has_none_beside_it(url, tmp_path):
    arguments = ["--url", url, "--rate", "20", "--seconds", "0.5", "--warmup", "0",
                 "--scenario", "inline"]  # fmt: skip
    assert run_command("bench", [*arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert (report["scenario"], report["beside"]) == ("inline", [])


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_rate_that_is_not_above_0_is_refused_in_one_line(capsys, rate):
    assert run_command("bench", ["--rate", "100", rate]) == 2
    errors = capsys.readouterr().err
    assert "--rate: must be a number above 0, got" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--rate", "x"], ["--no-such-option"], ["--scenario", "x"]])
def test_arguments_that_do_not_parse_have_exit_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as refused:
        run_command("bench", arguments)
    assert refused.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_repeated_rate_is_refused_instead_of_replacing_the_first(capsys):
    assert run_command("bench", ["--rate", "100", "--rate", "300"]) == 2
    line = "loadtest bench: --rate: must be passed once, got it 2 times\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost:8000", "https://example.org"])
def test_a_url_without_http_is_refused_with_an_example(capsys, url):
    assert run_command("bench", ["--url", url]) == 2
    errors = capsys.readouterr().err
    assert f"--url: must begin with http:// (TLS is not supported), got '{url}'" in errors
    assert "http://127.0.0.1:8000" in errors


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_BUNDLE))
def test_a_missing_bundle_is_named_with_its_missing_file(name, tmp_path, capsys):
    bundle = tmp_path / "none"
    out = tmp_path / "out"
    assert run_command(name, ["--bundle", str(bundle), "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert (
        f"loadtest {name}: --bundle: {bundle}: manifest.json is missing; name a bundle's" in errors
    )


@pytest.mark.parametrize("name", ["bench", "capacity"])
def test_more_candidates_than_the_bundle_has_are_refused(name, tmp_path, capsys):
    arguments = ["--candidates", "100000", "--out", str(tmp_path)]
    assert run_command(name, arguments) == 2
    assert "--candidates: 1 to" in capsys.readouterr().err


HEAVY = ("locust", "httpx", "httptools", "numpy", "matplotlib", "schemathesis", "jinja2")


@pytest.mark.parametrize("arguments", [["compare", "none", "none"], ["bench", "--help"]])
def test_a_command_does_not_import_what_another_one_measures_with(arguments):
    code = (
        "import sys\nsys.argv[1:] = " + repr(arguments) + "\n"
        "from loadtest.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_generator_process_that_dies_ends_the_rate_with_an_error():
    from loadtest.server import ServerError

    with stub_server() as url, generators(1) as load_generators:
        process, _ = load_generators._workers[0]
        process.kill()
        wait_for(lambda: process.exitcode is not None)
        with pytest.raises((ServerError, BrokenPipeError)):
            load_generators.offer(url, BODIES, Load(10, 0.5))
