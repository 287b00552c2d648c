"""Metrics of the processes: memory, descriptors and start time of each, and their shortage."""

import contextlib
import os
import re
import resource
import socket
import time
from pathlib import Path

import httpx
import pytest

from loadtest.server import serving
from tests.support.bundles import BUNDLE
from tests.support.processes import both_serve, metric, poll, total, workers_of

LIMIT = 64


def values_by_worker(page, name):
    return dict(re.findall(rf'^{name}{{worker="(\w+)"}} (\S+)$', page, re.MULTILINE))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_has_its_metrics_and_no_metric_a_time_of_creation(workers):
    with serving(BUNDLE, "--workers", str(workers)) as server:
        assert poll(lambda: metric(server, "rerank_workers") == workers, 60)
        page = httpx.get(f"{server.url}/metrics").text
        pids = {"1": server.process.pid}
        if workers == 2:  # the workers' slots are in the order of their start
            pids = dict(zip("12", workers_of(server), strict=True))
            pids["supervisor"] = server.process.pid
        for worker, pid in pids.items():
            (pages,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            reported = float(values_by_worker(page, "process_resident_memory_bytes")[worker])
            assert reported == pytest.approx(1024 * int(pages), rel=0.05)
            opened = float(values_by_worker(page, "process_open_fds")[worker])
            assert opened == pytest.approx(len(os.listdir(f"/proc/{pid}/fd")), abs=3)
            started = float(values_by_worker(page, "process_start_time_seconds")[worker])
            assert 0 <= time.time() - started < 120
            assert float(values_by_worker(page, "process_max_fds")[worker]) > LIMIT
            assert float(values_by_worker(page, "process_cpu_seconds_total")[worker]) > 0
        assert total(page, "rerank_workers_configured") == workers
        assert "_created" not in page
        assert values_by_worker(page, "process_open_fds").keys() == pids.keys()


def test_a_shortage_of_file_descriptors_is_logged_once_counted_and_survived():
    with serving(BUNDLE) as server, httpx.Client(base_url=server.url) as kept:
        assert kept.get("/readyz").status_code == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        address = ("127.0.0.1", httpx.URL(server.url).port)
        with contextlib.ExitStack() as stack:
            for _ in range(2 * LIMIT):
                stack.enter_context(socket.create_connection(address))
            name = "rerank_file_descriptors_exhausted_total"
            assert poll(lambda: total(kept.get("/metrics").text, name) >= 2, 10)
            assert kept.get("/readyz").status_code == 200
        assert poll(lambda: "file descriptors are free again" in server.log.read_text(), 10)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        log = server.log.read_text()
        assert log.count("connections are dropped") == 1
        assert f"raise the limit of {LIMIT} file descriptors" in log


def test_the_service_raises_its_limit_of_file_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A process of tests holds a descriptor for each mapped file of the bundles that it has loaded.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with serving(BUNDLE, "--workers", "2") as server:
            assert poll(lambda: both_serve(server), 60)
            for pid in (server.process.pid, *workers_of(server)):
                assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == min(hard, 65536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
