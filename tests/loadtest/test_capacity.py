"""The search for the highest rate that holds."""

import json
import re
from functools import partial
from typing import get_args

import pytest

from loadtest.capacity import Bound, bisect, broken, capacity
from loadtest.cli import run_command
from loadtest.commands import Dimension
from loadtest.errors import PASSED, VOID
from loadtest.generators import generators
from loadtest.growth import points
from loadtest.openloop import Sample
from loadtest.results import Load, RateResult
from loadtest.scenarios import Scenario
from loadtest.server import ServerError
from tests.support.bundles import BUNDLE, ROOT
from tests.support.stub_servers import stub_server, unused_url

BODIES = Scenario("plain", "/rerank", [b"{}"])


@pytest.fixture(scope="module")
def load_generators():
    with generators(2) as started:
        yield started


def samples(latency_s, count=100, degraded=None, status=200):
    return [
        Sample(i / 100, i / 100 + latency_s, status, degraded, 3, sent=i / 100)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("offered", "holds"),
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
def test_a_rate_holds_when_p99_is_in_time_and_all_are_ranked(offered, holds):
    reason = broken(RateResult(Load(100, 1.0), offered, 0.1, 0.1), Bound(p99_ms=30))
    assert (reason is None) is holds


def test_a_search_without_any_response_ends_after_the_first_run(load_generators):
    lines: list[str] = []
    with unused_url() as url, pytest.raises(ServerError, match="failed: connection refused"):
        capacity(load_generators, url, BODIES, Bound(), 0.5, progress=lines.append)
    assert len(lines) == 1
    assert "failed" in lines[0]


@pytest.mark.alone
def test_a_search_reports_why_each_rate_does_not_hold(load_generators):
    lines: list[str] = []
    with stub_server(delay_s=0.05) as url:  # no rate keeps this bound, down to one without requests
        searched = capacity(
            load_generators, url, BODIES, Bound(p99_ms=5), 0.1, 1, 20.0, progress=lines.append
        )
    assert searched.rates == [0.0]
    assert any("p99" in line for line in lines)
    assert any("no request was due" in line for line in lines)


def test_every_dimension_has_points_in_growth():
    assert {point.dimension for point in points(BUNDLE)} == set(get_args(Dimension))


@pytest.mark.parametrize("start", [1.0, 100.0, 5000.0])
@pytest.mark.parametrize("truth", [0.0, 3.0, 700.0, 4321.0])
def test_bisection_comes_within_its_precision_from_any_start(truth, start):
    rate = bisect(lambda rate: rate <= truth, start, Bound(precision=0.04))
    assert rate <= truth
    assert rate * 1.04 >= truth or truth == rate == 0.0


@pytest.mark.alone
def test_capacity_of_a_service_is_searched_and_reported_as_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("loadtest.capacity.Bound", partial(Bound, precision=0.5))
    arguments = ["--seconds", "0.4", "--repeats", "1", "--p99-ms", "500", "--out", str(tmp_path)]
    assert run_command("capacity", arguments) in (0, 3)  # 3: the generator was the bottleneck
    report = json.loads((tmp_path / "capacity.json").read_text())
    assert (report["scenario"], report["beside"][0]["scenario"]) == ("history", "ids")
    for section in (report, *report["beside"]):
        assert section["capacity_rps"] >= 25
        assert section["low"] <= section["capacity_rps"] <= section["high"]
    holding = [r for r in report["runs"] if r["asked_rps"] <= report["capacity_rps"] + 0.1]
    assert all(run["latency_ms"]["p99"] <= 500 for run in holding[-1:])
    text = (tmp_path / "capacity.html").read_text()
    assert text.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#|data:)', text)  # the page loads no other file


def test_the_capacity_of_two_checkouts_is_searched_in_every_scenario(tmp_path, monkeypatch):
    monkeypatch.setattr("loadtest.capacity.TRIES", 1)
    bound = ["--p99-ms", "0.001", "--seconds", "0.05", "--repeats", "2"]  # no rate holds
    arguments = [*bound, "--baseline", str(ROOT), "--out", str(tmp_path)]
    status = run_command("capacity", arguments)
    report = json.loads((tmp_path / "capacity_histories.json").read_text())
    assert status == (VOID if any(row["void"] for row in report["rows"]) else PASSED)
    assert report["commits"]["before"] == report["commits"]["after"]
    assert report["p99_ms"] == 0.001
    rows = {(row["case"], row["scenario"]): row for row in report["rows"]}
    for case in ("before", "after"):
        for name in ("ids", "history", "returning"):
            assert rows[case, name]["repeats"] == [0.0, 0.0]
        assert rows[case, "ids"]["history_cache_hits"] is None
        assert rows[case, "history"]["history_cache_hits"] == 0.0


def test_a_baseline_and_a_url_exclude_each_other(capsys):
    arguments = ["--baseline", str(ROOT), "--url", "http://127.0.0.1:1"]
    assert run_command("capacity", arguments) == 2
    assert "--url: not with --baseline" in capsys.readouterr().err
