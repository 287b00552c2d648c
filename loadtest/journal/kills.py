"""Kill workers at random moments while they write a journal; then read what is there.

A list may be missing only if a worker was killed before the flush that would have kept it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tqdm import tqdm

from loadtest.errors import LoadTestError
from loadtest.journal.command import Journal
from loadtest.journal.metrics import records_written
from loadtest.measured import Bar, Measured
from loadtest.scenarios import Catalogue
from loadtest.server import Server, serving
from loadtest.state.stores import run_module

WORKERS, CLIENTS, CANDIDATES = 2, 4, 20
FLUSH_MS = 20
LATE_S = 1.0  # between an answer and its record at the latest, on a busy machine
SHORTEST_S, LONGEST_S = 0.05, 0.4  # of load before a kill
READY_S = 60.0  # limit for a killed worker to be replaced


@dataclass
class Answered:
    """Moments (s) at which lists were answered, by request id, and those of kills."""

    lists: dict[str, float] = field(default_factory=dict)
    kills: list[float] = field(default_factory=list)

    def excused(self, request_id: str) -> bool:
        """Return true if a kill soon after a list's answer may have lost its record."""
        answered = self.lists[request_id]
        return any(answered - LATE_S <= kill <= answered + LATE_S for kill in self.kills)


def measure(options: Journal, directory: Path) -> Measured:
    """Kill, stop and count. Raises ServerError, LoadTestError or httpx.HTTPError."""
    measured, answered = Measured(), Answered()
    ids = Catalogue.of(options.bundle).ids
    journal = {"journal": f"files://{directory.resolve()}", "journal_flush_ms": FLUSH_MS}
    with serving(options.bundle, f"--workers={WORKERS}", **journal) as server:
        wait_until_both_serve(server)
        stopped = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            runs = [
                pool.submit(send, server.url, ids, number, stopped, answered.lists)
                for number in range(CLIENTS)
            ]
            try:
                kill_workers(server, options.kills, answered)
                time.sleep(2 * LATE_S)
            finally:
                stopped.set()
            for run in runs:
                run.result()
        time.sleep(LATE_S)
        written = records_written(server.url)
    add_counts(measured, requests_in(directory), answered, written)
    return measured


def send(
    url: str, ids: Sequence[str], number: int, stopped: threading.Event, lists: dict[str, float]
) -> None:
    """Send lists until stopped, and keep the ids of those that were answered."""
    sent = 0
    while not stopped.is_set():
        with contextlib.suppress(httpx.TransportError), httpx.Client(timeout=20) as client:
            while not stopped.is_set():
                request_id = f"{number}-{sent}"
                body = {"candidates": ids[sent % 50 :][:CANDIDATES], "request_id": request_id}
                sent += 1
                client.post(f"{url}/rerank", json=body).raise_for_status()
                lists[request_id] = time.time()


def kill_workers(server: Server, kills: int, answered: Answered) -> None:
    """Kill one of the workers at a random moment, again and again."""
    draw = random.Random(0)
    for _ in tqdm(range(kills), unit="kill", desc="kills", disable=None, leave=False):
        time.sleep(draw.uniform(SHORTEST_S, LONGEST_S))
        os.kill(draw.choice(workers_of(server)), signal.SIGKILL)
        answered.kills.append(time.time())
        wait_until_both_serve(server)


def workers_of(server: Server) -> list[int]:
    """Return the process ids of the workers, without Python's helper processes."""
    parent = server.process.pid
    workers = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split():
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                workers.append(int(pid))
    return workers


def wait_until_both_serve(server: Server) -> None:
    """Wait until every worker counts itself in the metrics. Raises LoadTestError."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):  # of a worker that was killed
            page = httpx.get(f"{server.url}/metrics", timeout=5).text
            counts = re.findall(r"^rerank_workers (\S+)$", page, re.MULTILINE)
            if counts and float(counts[0]) == WORKERS:
                return
        time.sleep(0.02)
    raise LoadTestError(f"a killed worker was not replaced in {READY_S:g} s")


def add_counts(
    measured: Measured, requests: Sequence[str], answered: Answered, written: int
) -> None:
    """Compare the request ids of the records with the lists that were answered, and add rows.

    Args:
        written: Number of records by the metrics.
    """
    missing = answered.lists.keys() - set(requests)
    unexcused = [each for each in missing if not answered.excused(each)]
    none = Bar("==", 0)
    what = "kills of a worker under load"
    for name, count, bar in (
        (what, len(answered.kills), None),
        ("lists that were answered", len(answered.lists), None),
        ("records that are readable", len(requests), None),
        ("records that are there more than once", len(requests) - len(set(requests)), none),
        ("records that metrics count and the files lack", max(0, written - len(requests)), none),
        ("records that the files have and metrics lack", max(0, len(requests) - written), None),
        (f"answered lists lost within {LATE_S:g} s of a kill", len(missing) - len(unexcused), None),
        ("answered lists lost otherwise", len(unexcused), none),
    ):
        measured.add(name, "kills", count, "", bar)


def requests_in(directory: Path) -> list[str]:
    """Return the request ids of a journal, as the commands of the service read it.

    Raises LoadTestError for damage beyond an incomplete frame at the end of a file.
    """
    run_module("service", "journal", "verify", directory)
    lines = run_module("service", "journal", "tail", directory, "--last", 0)
    return [json.loads(line)["request_id"] for line in lines.splitlines()]
