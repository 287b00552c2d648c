"""Kill workers at random moments while they write a journal; then read what is there.

After each kill the load stops, and the records in the files are counted against the metrics. A
list may be missing only if its worker was killed before the flush that would have kept it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
from tqdm import tqdm

from loadtest.errors import LoadTestError
from loadtest.journal.command import Journal
from loadtest.journal.metrics import records_written
from loadtest.measured import Bar, Measured
from loadtest.scenarios import Catalogue
from loadtest.server import Server, serving
from loadtest.state.calls import Caller
from loadtest.state.stores import run_module

# Each worker of a service is killed once: its second replacement would start with a delay.
WORKERS, CLIENTS, CANDIDATES = 5, 10, 20
FLUSH_MS = 20
LATE_S = 0.5  # between an answer and its record at the latest, on a busy machine
SHORTEST_S, LONGEST_S = 0.1, 1.2  # of load before a kill
AFTER_S = 0.1  # of load after it
READY_S = 60.0  # limit for all workers to serve


@dataclass
class Lists:
    """The lists that were answered, by request id.

    required: those that must have a record. late: those that a killed worker may have lost, with
    the seconds from their answer to the kill. broken: calls that a kill broke off. killed_at: the
    moment (s) of the last kill, None before it.
    """

    required: set[str] = field(default_factory=set)
    late: dict[str, float] = field(default_factory=dict)
    broken: int = 0
    killed_at: float | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def keep(self, answered: Mapping[str, float]) -> None:
        """Add the lists of a connection to a worker that goes on."""
        self.required.update(answered)

    def break_off(self, answered: Mapping[str, float], reason: OSError) -> None:
        """Add the lists of a connection that ended, with its worker, in the middle of a call.

        Args:
            answered: Moment (s) of each answer, by request id.

        Raises LoadTestError before any kill.
        """
        if self.killed_at is None:
            raise LoadTestError(f"a connection ended before a kill: {reason}")
        for request_id, moment in answered.items():
            if self.killed_at - moment <= LATE_S:
                self.late[request_id] = self.killed_at - moment
            else:
                self.required.add(request_id)
        self.broken += 1


@dataclass
class Tally:
    """Records since the last kill by metrics and by files, for each kill; then all request ids."""

    counted: list[int] = field(default_factory=list)
    readable: list[int] = field(default_factory=list)
    torn: int = 0
    requests: list[str] = field(default_factory=list)


def measure(options: Journal, directory: Path) -> Measured:
    """Kill and count. Raises ServerError, LoadTestError, OSError or httpx.HTTPError."""
    lists, tally, draw = Lists(), Tally(), random.Random(0)
    ids = Catalogue.of(options.bundle).ids
    with tqdm(total=options.kills, unit="kill", desc="kills", disable=None, leave=False) as bar:
        for first in range(0, options.kills, WORKERS):
            journal = (directory / str(first)).resolve()
            journal.mkdir()
            settings = {"journal": f"files://{journal}", "journal_flush_ms": FLUSH_MS}
            with serving(options.bundle, f"--workers={WORKERS}", **settings) as server:
                wait_until_all_serve(server)
                counts = (0, 0)
                for pid in draw.sample(workers_of(server), min(WORKERS, options.kills - first)):
                    seconds = draw.uniform(SHORTEST_S, LONGEST_S)
                    asyncio.run(kill_under_load(server.url, pid, seconds, ids, lists))
                    before, counts = counts, count_after_kill(server, journal)
                    tally.counted.append(counts[0] - before[0])
                    tally.readable.append(counts[1] - before[1])
                    bar.update()
            tally.torn += torn_tails_in(journal)
            tally.requests += requests_in(journal)
            shutil.rmtree(journal)
    measured = Measured()
    add_counts(measured, lists, tally)
    return measured


async def kill_under_load(
    url: str, pid: int, seconds: float, ids: Sequence[str], lists: Lists
) -> None:
    """Rank lists from CLIENTS clients, and kill a worker after `seconds`.

    Raises LoadTestError for a refused list.
    """
    stopped, lists.killed_at = asyncio.Event(), None
    clients = [asyncio.create_task(rank(url, ids, lists, stopped)) for _ in range(CLIENTS)]
    try:
        await asyncio.sleep(seconds)
        lists.killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(AFTER_S)
    finally:
        stopped.set()
        await asyncio.gather(*clients)


async def rank(url: str, ids: Sequence[str], lists: Lists, stopped: asyncio.Event) -> None:
    """Rank list after list until stopped, over a new connection when the last one has ended."""
    while not stopped.is_set():
        answered: dict[str, float] = {}
        try:
            caller = await Caller.connect(url)
            try:
                await rank_over(caller, ids, lists.numbers, answered, stopped)
            finally:
                caller.close()
        except ConnectionError as error:
            lists.break_off(answered, error)
        else:
            lists.keep(answered)


async def rank_over(
    caller: Caller,
    ids: Sequence[str],
    numbers: Iterator[int],
    answered: dict[str, float],
    stopped: asyncio.Event,
) -> None:
    """Rank over one connection, whose worker is the same all the time.

    Args:
        answered: Gets the moment (s) of each answer, by request id.

    Raises ConnectionError when it ends, TimeoutError, LoadTestError for a refused list.
    """
    while not stopped.is_set():
        number = next(numbers)
        candidates = ids[number % 50 :][:CANDIDATES]
        body = {"candidates": candidates, "request_id": f"list-{number}"}
        status, content = await caller.post("/rerank", orjson.dumps(body))
        if status != 200:
            raise LoadTestError(f"POST /rerank: status {status}: {content[:300]!r}")
        answered[f"list-{number}"] = time.monotonic()


def count_after_kill(server: Server, journal: Path) -> tuple[int, int]:
    """Return the records by metrics and by files, once neither moves.

    Raises LoadTestError if a record cannot be read.
    """
    time.sleep(LATE_S)
    while True:
        counted = records_written(server.url)
        readable = int(verified(journal)[0])
        if records_written(server.url) == counted:
            return counted, readable


def workers_of(server: Server) -> list[int]:
    """Return the process ids of the workers, without Python's helper processes."""
    parent = server.process.pid
    workers = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split():
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                workers.append(int(pid))
    return workers


def wait_until_all_serve(server: Server) -> None:
    """Wait until every worker counts itself in the metrics. Raises LoadTestError."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        page = httpx.get(f"{server.url}/metrics", timeout=20).text
        counts = re.findall(r"^rerank_workers (\S+)$", page, re.MULTILINE)
        if counts and float(counts[0]) == WORKERS:
            return
        time.sleep(0.02)
    raise LoadTestError(f"{WORKERS} workers did not serve in {READY_S:g} s")


def add_counts(measured: Measured, lists: Lists, tally: Tally) -> None:
    """Compare records with metrics after each kill, and with lists at the end, and add rows."""
    differences = [
        readable - counted for readable, counted in zip(tally.readable, tally.counted, strict=True)
    ]
    there = set(tally.requests)
    lost = {request_id: age for request_id, age in lists.late.items() if request_id not in there}
    none = Bar("==", 0)
    for name, value, unit, bar in (
        ("kills of a worker under load", len(differences), "kills", None),
        ("calls that a kill broke off", lists.broken, "calls", Bar(">", 0)),
        ("lists that were answered", len(lists.required) + len(lists.late), "lists", None),
        ("records that are readable", len(tally.requests), "records", None),
        ("records that are there more than once", len(tally.requests) - len(there), "records",
         none),
        ("kills after which files and metrics have the same count", differences.count(0), "kills",
         None),
        ("records that metrics count and the files lack",
         sum(max(0, -difference) for difference in differences), "records", none),
        ("records that the files have and the metrics of a killed worker lack",
         sum(max(0, difference) for difference in differences), "records", None),
        ("incomplete frames at the ends of files", tally.torn, "frames", None),
        ("answered lists that a killed worker had not flushed", len(lost), "lists", None),
        ("longest time from the answer of such a list to the kill",
         1e3 * max(lost.values(), default=0.0), "ms", None),
        ("answered lists that are lost otherwise", len(lists.required - there), "lists", none),
    ):  # fmt: skip
        measured.add(name, "files", value, unit, bar)


def verified(journal: Path) -> tuple[str, ...]:
    """Return the numbers of records and of torn tails, as the service's own command reads them.

    Raises LoadTestError for damage beyond an incomplete frame at the end of a file.
    """
    text = run_module("service", "journal", "verify", journal)
    match = re.match(r"(\d+) records in \d+ segments, (\d+) torn tails", text)
    if match is None:
        raise LoadTestError(f"python -m service journal verify {journal}: {text.strip()}")
    return match.groups()


def torn_tails_in(journal: Path) -> int:
    """Return the number of incomplete frames. Raises LoadTestError for other damage."""
    return int(verified(journal)[1])


def requests_in(journal: Path) -> list[str]:
    """Return the request ids of a journal, as the service's own command reads them."""
    lines = run_module("service", "journal", "tail", journal, "--last", 0)
    return [orjson.loads(line)["request_id"] for line in lines.splitlines()]
