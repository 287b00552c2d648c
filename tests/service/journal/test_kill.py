"""Workers that are killed under load: what was flushed is readable, and metrics agree with it."""

import contextlib
import os
import random
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from loadtest.server import serving
from service.journal.segments import segments_in
from service.journal.summary import summarise
from tests.support.bundles import BUNDLE
from tests.support.journals import records_in
from tests.support.processes import both_serve, poll, total, workers_of

KILLS = 1
CLIENTS = 3


def send_until(stopped, server, items, number):
    """Send lists until stopped, and return the request ids that were answered, with the time."""
    answered, sent = [], 0
    while not stopped.is_set():
        with contextlib.suppress(httpx.TransportError), httpx.Client(timeout=20) as client:
            while not stopped.is_set():
                body = {"candidates": items[sent % 50 :][:20], "request_id": f"{number}-{sent}"}
                sent += 1
                client.post(f"{server.url}/rerank", json=body).raise_for_status()
                answered.append((body["request_id"], time.time()))
    return answered


def kill_workers(server, kills, draw):
    """Kill one of two workers at a random moment, again and again; return the last time."""
    for _ in range(kills):
        time.sleep(draw.uniform(0.05, 0.3))
        os.kill(draw.choice(workers_of(server)), signal.SIGKILL)
        killed_at = time.time()
        assert poll(lambda: both_serve(server), 60)
    return killed_at


def counted(page, result):
    """Return the records of one result on a page of metrics."""
    name = f'rerank_journal_records_total{{result="{result}"}} '
    return next(float(li.removeprefix(name)) for li in page.splitlines() if li.startswith(name))


def check_kills(directory, items, kills, seed):
    """Kill workers under load, and return counts: answered lists, records, records in metrics."""
    stopped = threading.Event()
    settings = {"journal": f"files://{directory}", "journal_flush_ms": 20}
    with serving(BUNDLE, "--workers", "2", **settings) as server:
        assert poll(lambda: both_serve(server), 60)
        with ThreadPoolExecutor(CLIENTS) as pool:
            runs = [
                pool.submit(send_until, stopped, server, items, number) for number in range(CLIENTS)
            ]
            try:
                killed_at = kill_workers(server, kills, random.Random(seed))
                time.sleep(0.2)
            finally:
                stopped.set()
            answered = [entry for run in runs for entry in run.result()]
        page = httpx.get(f"{server.url}/metrics", timeout=20).text
    records, summary = records_in(directory), summarise(segments_in(directory))
    assert summary.problems == []
    ids = {record.request_id for record in records}
    assert len({record.record for record in records}) == len(records)
    late = {request for request, moment in answered if moment > killed_at + 1}
    assert late <= ids  # a shutdown flushes
    return answered, records, page


def test_what_was_flushed_before_a_kill_is_readable(items, tmp_path):
    answered, records, page = check_kills(tmp_path, items, KILLS, 1)
    assert answered
    # A batch that is durable may miss in the metrics if its worker dies before it counts.
    assert 0 < counted(page, "written") <= len(records)


def test_a_full_disk_costs_no_ranking_and_records_are_kept_once_it_has_room(items, tmp_path):
    directory = tmp_path / "journal"
    settings = {"journal": f"files://{directory}", "journal_flush_ms": 5, "journal_buffer_mb": 0.02}

    def rank(client, count):
        for _ in range(count):
            answer = client.post("/rerank", json={"candidates": items[:20]}).json()
            assert answer["degraded"] is None

    def page(client):
        return client.get("/metrics").text

    with (
        serving(BUNDLE, **settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        rank(client, 3)
        assert poll(lambda: counted(page(client), "written") == 3, 20)
        (segment,) = segments_in(directory)
        size = segment.path.stat().st_size
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size + 10, hard))
        rank(client, 40)
        assert poll(lambda: total(page(client), "rerank_journal_errors_total") > 0, 20)
        lost = counted(page(client), "dropped")
        assert 0 < lost < 40  # what the buffer could not hold
        assert len(records_in(directory)) == 3
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert poll(lambda: counted(page(client), "written") == 43 - lost, 20)
        rank(client, 5)
    assert len(records_in(directory)) == 48 - lost
    assert summarise(segments_in(directory)).problems == []
