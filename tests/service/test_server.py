"""Workers and their supervisor: shared metrics, replacement, draining and shutdown."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from loadtest.server import ServerError, serving
from rerank_client import Client, NoAnswer
from tests.support.bundles import BUNDLE
from tests.support.commands import command
from tests.support.processes import both_serve, poll, total, workers_of

PATIENT = {"timeout_ms": 60_000}


def body(items, size=24, seed=0, **more):
    return {"candidates": [{"id": i} for i in random.Random(seed).sample(items, size)], **more}


def client_ports_of(pid):
    """Return the client ports of the connections that a process holds."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(re.sub(r"socket:\[(\d+)\]", r"\1", str(link.readlink())))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[2].split(":")[1], 16) for line in lines if line[9] in inodes}


def port_of(response):
    return response.extensions["network_stream"].get_extra_info("client_addr")[1]


def total_seconds(response):
    return float(re.findall(r"total;dur=([\d.]+)", response.headers["server-timing"])[0]) / 1e3


@pytest.fixture(scope="module")
def two_workers():
    """A service of two workers."""
    with serving(BUNDLE, "--workers", "2", **PATIENT) as server:
        assert poll(lambda: both_serve(server), 60)
        yield server


@pytest.mark.alone
def test_every_worker_reports_the_requests_of_all_workers_exactly_once(two_workers, items):
    before = httpx.get(f"{two_workers.url}/metrics").text
    connections = [httpx.Client(base_url=two_workers.url, timeout=30) for _ in range(12)]
    with contextlib.ExitStack() as stack:
        for connection in connections:
            stack.enter_context(connection)
        responses = [
            connection.post("/rerank", json=body(items, seed=turn)).raise_for_status()
            for turn in range(5)
            for connection in connections
        ]
        ports = {port_of(response) for response in responses}
        assert all(ports & client_ports_of(pid) for pid in workers_of(two_workers)), (
            "one worker had all connections"
        )
        pages = [connection.get("/metrics").text for connection in connections]
    name = "rerank_request_duration_seconds"
    spent = [total_seconds(response) for response in responses]
    for page in pages:
        for metric in ("rerank_requests_total", f"{name}_count", "rerank_list_size_count"):
            assert total(page, metric) - total(before, metric) == len(responses)
        measured = total(page, f"{name}_sum") - total(before, f"{name}_sum")
        assert measured == pytest.approx(sum(spent), rel=0.01)
        assert measured != pytest.approx(
            sum(spent) - max(spent), rel=0.01
        )  # the sum detects a missing request


@pytest.mark.alone
def test_a_killed_worker_fails_only_its_requests_in_flight_and_is_replaced(two_workers, items):
    stop, failed, answered, ports = threading.Event(), [0] * 4, [0] * 4, [0] * 4

    def send_requests(index):
        with httpx.Client(base_url=two_workers.url, timeout=30) as connection:
            while not stop.is_set():
                try:
                    response = connection.post("/rerank", json=body(items, seed=index))
                    assert response.status_code == 200
                    ports[index] = ports[index] or port_of(response)
                    answered[index] += 1
                except httpx.TransportError:
                    failed[index] += 1

    before = httpx.get(f"{two_workers.url}/metrics").text
    old = workers_of(two_workers)
    threads = [threading.Thread(target=send_requests, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert poll(lambda: all(ports), 60)
        victim = max(old, key=lambda pid: len(client_ports_of(pid) & set(ports)))
        connected_to_victim = [port in client_ports_of(victim) for port in ports]
        os.kill(victim, signal.SIGKILL)

        def replaced():
            """Return a true value once the new worker serves a connection."""
            new = [pid for pid in workers_of(two_workers) if pid not in old]
            with httpx.Client(base_url=two_workers.url, timeout=30) as connection:
                response = connection.get("/readyz")
                return (
                    new
                    and response.status_code == 200
                    and port_of(response) in client_ports_of(new[0])
                )

        assert poll(replaced, 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert any(connected_to_victim)
    for touched, failures in zip(connected_to_victim, failed, strict=True):
        assert failures <= touched
    assert victim not in workers_of(two_workers)
    assert len(workers_of(two_workers)) == 2
    text = httpx.get(f"{two_workers.url}/metrics").text
    assert total(text, "rerank_worker_restarts_total") == 1
    # Counts of the dead worker are kept; it may have died between counting and responding.
    counted = total(text, "rerank_requests_total") - total(before, "rerank_requests_total")
    assert sum(answered) <= counted <= sum(answered) + sum(failed)


def test_workers_stop_with_their_supervisor_and_free_the_port():
    with serving(BUNDLE, "--workers", "2", **PATIENT) as server:
        assert poll(lambda: both_serve(server), 60)
        workers = workers_of(server)
        text = httpx.get(f"{server.url}/metrics").text
        assert total(text, "rerank_budget_level") == 3  # the supervisor has no level
        server.process.kill()
        assert poll(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers), 60)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/livez")


@pytest.mark.alone
@pytest.mark.parametrize("workers", ["1", "2"])
def test_requests_are_served_while_draining_and_finish_during_shutdown(
    items, tmp_path, monkeypatch, workers
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    slow = {"requests": [body(items, 500, seed) for seed in range(64)]}
    drain_s = 1.5
    responses: list[httpx.Response] = []
    times: list[float] = []
    with (
        serving(BUNDLE, "--workers", workers, drain_s=drain_s, **PATIENT) as server,
        httpx.Client(base_url=server.url, timeout=30) as kept,
    ):
        kept.get("/livez")
        quick = httpx.post(f"{server.url}/rerank", json=body(items))
        assert "connection" not in quick.headers

        def send_requests():
            responses.append(httpx.post(f"{server.url}/rerank/batch", json=slow, timeout=30))
            times.append(time.monotonic())

        server.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        unready = poll(lambda: (r := kept.get("/readyz")).status_code == 503 and r, drain_s)
        assert unready.json()["detail"] == "draining"
        assert unready.headers["connection"] == "close"
        response = httpx.post(f"{server.url}/rerank", json=body(items))
        assert response.status_code == 200
        assert response.headers["connection"] == "close"
        time.sleep(max(0.0, signalled + drain_s - 0.15 - time.monotonic()))
        thread = threading.Thread(target=send_requests)
        thread.start()
        assert server.process.wait(drain_s + 10) == 0
        stopped = time.monotonic()
        thread.join()
    (response,), (finished,) = responses, times
    assert response.status_code == 200
    assert response.headers["connection"] == "close"
    assert len(response.json()["responses"]) == 64
    assert finished > signalled + drain_s  # it was in flight when listening ended
    assert drain_s < stopped - signalled < drain_s + 8
    assert finished < stopped + 0.5
    assert list(tmp_path.iterdir()) == []  # the service writes no temporary file


@pytest.mark.alone
def test_a_sigterm_to_every_process_does_not_cut_the_draining(items):
    drain_s = 2.0
    with serving(BUNDLE, "--workers", "2", drain_s=drain_s, **PATIENT) as server:
        assert poll(lambda: both_serve(server), 60)
        os.killpg(server.process.pid, signal.SIGTERM)  # as systemd does
        signalled = time.monotonic()
        assert poll(lambda: server.process.poll() is not None, drain_s - 0.5) is None
        assert httpx.post(f"{server.url}/rerank", json=body(items)).status_code == 200
        assert server.process.wait(10) == 0
        assert time.monotonic() - signalled > drain_s


@pytest.mark.alone
def test_a_rolling_restart_behind_the_client_fails_no_request(items):
    stop, degraded, failed = threading.Event(), [], []

    def send_requests(urls, index):
        with Client(urls, timeout_ms=10_000, fallback=False) as client:
            ids = [c["id"] for c in body(items, seed=index)["candidates"]]
            while not stop.is_set():
                try:
                    degraded.append(client.rerank(ids).degraded)
                except NoAnswer as error:
                    failed.append(error)

    def instance(stack, port=0):
        return stack.enter_context(
            serving(BUNDLE, "--port", str(port), drain_s=0.3, **PATIENT, adaptive_budget=False)
        )

    with contextlib.ExitStack() as stack:
        servers = [instance(stack) for _ in range(2)]
        urls = [server.url for server in servers]
        threads = [threading.Thread(target=send_requests, args=(urls, index)) for index in range(3)]
        for thread in threads:
            thread.start()
        try:
            for index, server in enumerate(servers):
                before = len(degraded)
                server.process.terminate()
                assert server.process.wait(20) == 0
                servers[index] = instance(stack, httpx.URL(server.url).port)
                assert servers[index].url == server.url
                assert len(degraded) > before
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert len(degraded) > 20
        assert set(degraded) == {None}
        assert failed == []
        for server in servers:  # with both servers stopped a request does fail
            server.process.terminate()
            server.process.wait(20)
        with Client(urls, timeout_ms=500, fallback=False) as client, pytest.raises(NoAnswer):
            client.rerank(["1", "2"])


def test_a_worker_that_cannot_start_ends_the_service_with_status_2(tmp_path):
    shutil.copytree(BUNDLE, tmp_path / "1")
    (tmp_path / "1" / "golden.json").write_bytes(b"[]")
    began = time.monotonic()
    process = command("--workers", "2", "--port", "0", "--bundle", str(tmp_path / "1"))
    assert time.monotonic() - began < 25  # without waiting for the dead worker
    assert process.returncode == 2
    assert f"{tmp_path}/1/golden.json: " in process.stderr
    assert process.stderr.splitlines()[-1] == (
        "service: a worker did not start; the line above gives its reason"
    )


def test_the_command_line_reaches_the_workers_before_the_environment(monkeypatch):
    monkeypatch.setenv("RERANK_BUNDLE", "nowhere")
    with serving(BUNDLE, "--workers", "2", max_batch_size=7) as server:
        for _ in range(4):
            assert httpx.get(f"{server.url}/info").json()["max_batch_size"] == 7
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = command("--workers", "2", "--port", str(port))
    assert process.returncode == 2
    assert "nowhere/manifest.json" in process.stderr


def test_a_service_that_does_not_start_reports_its_own_message():
    with pytest.raises(ServerError, match=r"nowhere/manifest\.json"), serving(Path("nowhere")):
        pass
