"""The open loop counts from when a request was due; short runs of the commands that use it."""

import asyncio
import contextlib
import errno
import json
import re
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from loadtest import overload, soak
from loadtest.cli import run_command
from loadtest.connections import Pool, failure_of
from loadtest.openloop import Sample, closed_loop, open_loop, run
from loadtest.overload import response_times
from tests.support.stub_servers import unused_url

ROOT = Path(__file__).parents[2]
ANSWER = json.dumps(
    {"degraded": None, "reasoning": {"budget_per_position": 3, "steps_used": 1}}
).encode()


async def pausing(measure, pause_s, content=ANSWER):
    """Run `measure(url)` against a server that pauses for `pause_s` after half a second."""
    began = time.monotonic()

    async def answer(reader, writer):
        with contextlib.closing(writer):
            while head := await reader.readline():
                while (line := await reader.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                await reader.readexactly(length)
                at = time.monotonic() - began
                if 0.5 < at < 0.5 + pause_s:
                    await asyncio.sleep(0.5 + pause_s - at)
                assert head.startswith(b"POST")
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content
                )
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        result = await measure(f"http://127.0.0.1:{port}")
        await asyncio.sleep(0.05)  # for the connections to close
        return result


def share_slow(samples):
    return np.mean([sample.latency_s > 0.2 for sample in samples])


@pytest.mark.alone
def test_a_pause_shows_in_every_request_that_was_due_in_it_and_a_closed_loop_hides_it():
    body = [b"{}"]

    async def open_loops(*pauses_s):
        loops = [
            pausing(lambda url: open_loop(url, body, [(200, 2.0)], 0), pause_s)
            for pause_s in pauses_s
        ]
        return await asyncio.gather(*loops)

    opened, calm = run(open_loops(1.0, 0.0))
    hidden = run(pausing(lambda url: closed_loop(url, body, 1, 2.0), 1.0))
    assert share_slow(opened) == pytest.approx(0.4, abs=0.1)  # due in 0.8 of 2 s
    assert share_slow(hidden) < 0.02  # one request of hundreds
    assert share_slow(calm) < 0.02
    assert len(opened) == pytest.approx(400, abs=80)


def test_a_refused_request_has_status_0_and_a_reason():
    async def refused(_):
        with unused_url() as url:
            return await open_loop(url, [b"{}"], [(50, 0.3)], 0)

    samples = run(pausing(refused, 0.0))
    assert {(sample.status, sample.failure) for sample in samples} == {(0, "connection refused")}


@pytest.mark.parametrize(
    ("content", "status", "failure"),
    [(ANSWER, 200, None), (ANSWER[:-3], 0, "unreadable body"), (b"", 0, "unreadable body")],
)
def test_a_response_that_cannot_be_read_is_a_failure(content, status, failure):
    samples = run(pausing(lambda url: open_loop(url, [b"{}"], [(50, 0.3)], 0), 0.0, content))
    assert {(sample.status, sample.failure) for sample in samples} == {(status, failure)}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EMFILE, "too many files"), "generator out of sockets"),
        (OSError(errno.EADDRNOTAVAIL, "no port"), "generator out of sockets"),
        (TimeoutError(), "timeout"),
        (BrokenPipeError(), "connection reset"),
        (socket.gaierror(-2, "unknown name"), "host not resolved"),
        (OSError(errno.ENETUNREACH, "no route"), "connection error: Network is unreachable"),
    ],
)
def test_errors_of_the_socket_have_kinds(error, kind):
    assert failure_of(error) == kind


def test_a_connection_that_the_service_closed_while_idle_is_not_used_again():
    async def play():
        async def once(reader, writer):
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(once, "127.0.0.1", 0)
        async with server:
            pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            statuses = []
            for _ in range(3):
                statuses.append((await pool.post("/rerank", b"{}"))[0])
                await asyncio.sleep(0.05)
            await pool.close()
        return statuses

    assert run(play()) == [200, 200, 200]


@pytest.mark.alone
def test_every_request_of_an_overload_gets_a_response_and_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(overload, "WARM_UP_S", 0.3)
    monkeypatch.setattr(overload, "CAPACITY_S", 1.5)
    arguments = ["--seconds", "2", "--rest", "1", "--timeout-ms", "500"]
    assert run_command("overload", [*arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "overload.json").read_text())
    assert report["summary"]["unanswered"] == 0
    assert (report["failures"], report["void"]) == ({}, None)
    assert report["summary"]["largest_queue"] <= report["max_queue"]
    assert sum(second["offered"] for second in report["series"]) == report["summary"]["requests"]
    page = (tmp_path / "overload.md").read_text()
    assert re.search(r"\| unanswered \| 0 \|", page)
    times = report["response_ms"]
    assert times["ranked"]["responses"] > 0 < times["shed"]["responses"]
    assert times["shed"]["responses"] == sum(
        times[reason]["responses"] for reason in ("overload", "deadline")
    )
    assert f"| shed | {times['shed']['responses']} | {times['shed']['p10']} |" in page
    assert (tmp_path / "overload.png").stat().st_size > 10_000


def test_cpu_time_inside_and_outside_the_run_is_reported(tmp_path):
    out = tmp_path / "cpu.json"
    arguments = ["--requests", "50", "--scenario", "returning", "--out", str(out)]
    assert run_command("cpu", arguments) == 0
    report = json.loads(out.read_text())
    assert report["inside_ms"][0] > 0 < report["outside_ms"][0]
    # Six turns, and only the first request of each of 64 users misses.
    assert report["history_cache_hits"] == pytest.approx(1 - 64 / 300, abs=1e-4)


def test_cpu_time_of_two_checkouts_is_measured_in_every_scenario(tmp_path):
    out = tmp_path / "cpu.json"
    arguments = ["--requests", "16", "--baseline", str(ROOT), "--out", str(out)]
    assert run_command("cpu", arguments) == 0
    report = json.loads(out.read_text())
    assert report["commits"]["before"] == report["commits"]["after"]
    hits = {(row["case"], row["scenario"]): row["history_cache_hits"] for row in report["rows"]}
    for case in ("before", "after"):
        assert hits[case, "ids"] is None
        assert hits[case, "history"] == 0.0
        assert hits[case, "returning"] == pytest.approx(1 - 64 / 96, abs=1e-4)
    for row in report["rows"]:
        mean, least, greatest = row["total_ms"]
        assert 0 < least <= mean <= greatest
        assert mean == pytest.approx(row["inside_ms"][0] + row["outside_ms"][0], abs=2e-4)


def test_the_cpu_times_of_the_documentation_are_those_of_the_report():
    report = json.loads((ROOT / "docs" / "reports" / "cpu_histories.json").read_text())
    text = (ROOT / "docs" / "loadtest.md").read_text(encoding="utf-8")
    rows = {(row["case"], row["scenario"]): row for row in report["rows"]}
    for name in ("ids", "history", "returning"):
        cells = []
        for case in ("before", "after"):
            mean, least, greatest = rows[case, name]["total_ms"]
            cells.append(f"{mean:.2f} [{least:.2f}, {greatest:.2f}]")
        hits = rows["after", name]["history_cache_hits"]
        cells.append("" if hits is None else f"{hits:.2f}")
        assert f"| `{name}` | {' | '.join(cells)} |".replace("|  |", "| |") in text
    assert all(commit in text for commit in report["commits"].values())


def test_the_interval_of_a_slope_excludes_0_only_for_growth():
    draw, minutes = np.random.default_rng(0), np.arange(0, 10, 1 / 60)
    noise = draw.normal(size=len(minutes))
    _, low, high = soak.trend(minutes, 100 + noise)
    assert low < 0 < high
    slope, low, _ = soak.trend(minutes, 100 + minutes + noise)
    assert low > 0
    assert slope == pytest.approx(1, abs=0.3)


def test_the_times_to_a_response_are_quantiles_of_each_outcome():
    answered = [Sample(1.0, 1.0 + k / 1e3, 200, None, budget=0) for k in range(1, 102)]
    shed = [Sample(2.0, 2.010, 200, "overload"), Sample(2.0, 2.100, 200, "deadline")]
    unranked = [Sample(3.0, 3.5, 0), Sample(3.0, 3.5, 503), Sample(3.0, 3.5, 200, "model_error")]
    times = response_times([*answered, *shed, *unranked])
    assert times["ranked"] == {
        "responses": 101, "p10": 11.0, "p50": 51.0, "p90": 91.0, "p99": 100.0, "p99.9": 100.9,
        "max": 101.0,
    }  # fmt: skip
    assert [times[kind]["responses"] for kind in ("shed", "overload", "deadline")] == [2, 1, 1]
    assert (times["overload"]["p50"], times["deadline"]["p50"]) == (10.0, 100.0)
    assert response_times([])["shed"]["p50"] is None
