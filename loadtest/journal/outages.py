"""Rank under load while the sink of the journal takes nothing: no list may be worse for it."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from loadtest.errors import UsageError
from loadtest.generators import Generators, generators
from loadtest.journal.command import Journal
from loadtest.journal.metrics import count_records
from loadtest.measured import Bar, Measured
from loadtest.results import Load, RateResult
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import Server, serving
from loadtest.state.stores import free_port

SETTINGS = {"adaptive_budget": "false", "journal_flush_ms": 20, "journal_buffer_mb": 0.25}
NO_JOURNAL = "no journal"
# Nothing listens on the port of the last two.
SINKS: dict[str, Callable[[Path], str]] = {
    NO_JOURNAL: lambda directory: "off",
    "full disk": lambda directory: f"files://{directory.resolve()}",
    "dead Kafka": lambda directory: (
        f"kafka://127.0.0.1:{free_port()}/journal?message.timeout.ms=1000"
    ),
    "dead Redis": lambda directory: f"redis://127.0.0.1:{free_port()}/0",
}
FULL = "full disk"
ROOM = 4096  # bytes that a full disk still takes
RECOVERY_S = 20.0  # limit for the records that waited to be written


def measure(options: Journal, directory: Path) -> Measured:
    """Measure each sink. Raises ServerError, OSError or httpx.HTTPError."""
    measured = Measured()
    requests = scenario("inline", Catalogue.of(options.bundle), RequestOptions())
    with generators(1) as sending:
        for name in tqdm(SINKS, unit="sink", desc="outages", disable=None, leave=False):
            journal = SINKS[name](directory)
            with serving(options.bundle, journal=journal, **SETTINGS) as server:
                if name == FULL:
                    limit_files(server, ROOM)
                rank(measured, name, server, requests, options, sending)
    return measured


def rank(
    measured: Measured,
    name: str,
    server: Server,
    requests: Scenario,
    options: Journal,
    sending: Generators,
) -> None:
    """Rank lists at a rate, and add what became of them and of their records.

    Raises UsageError if the machine is too slow for the rate.
    """
    none = Bar("==", 0)
    run = sending.offer(server.url, requests, Load(options.rate, options.outage_seconds, warmup=0))
    if name == NO_JOURNAL:
        require_ranked(run)
    measured.add("lists that were sent", name, len(run.samples), "lists")
    measured.add("lists without a response", name, run.failed, "lists", none)
    measured.add("lists with the initial ranking", name, run.unranked, "lists", none)
    measured.add("p50 latency", name, run.latency_ms(0.5), "ms")
    measured.add("p99 latency", name, run.latency_ms(0.99), "ms")
    if name == NO_JOURNAL:
        return
    counts = count_records(server.url)
    # Otherwise the sink was not down, or its buffer never full.
    measured.add("records dropped, and counted", name, counts["dropped"], "records", Bar(">", 0))
    if name == FULL:
        limit_files(server, None)
        difference = unaccounted(server, len(run.samples))
        measured.add(
            "lists neither written nor dropped once there is room", name, difference, "lists", none
        )


def require_ranked(run: RateResult) -> None:
    """Raise UsageError if a service without a journal does not rank all lists at this rate."""
    if missing := run.failed + run.unranked:
        raise UsageError(
            f"--rate: {missing} of {len(run.samples)} lists were not ranked without a journal at "
            f"{run.load.rate:g} per second; lower it, or stop what else the machine does"
        )


def limit_files(server: Server, size: int | None) -> None:
    """Limit the bytes of each file of a service; beyond it a write fails, as on a full disk.

    None: as many as the system allows. Raises OSError.
    """
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    soft = hard if size is None else size
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (soft, hard))


def unaccounted(server: Server, lists: int) -> int:
    """Return lists less records written or dropped, once it is 0 or after RECOVERY_S.

    Raises httpx.HTTPError.
    """
    deadline = time.monotonic() + RECOVERY_S
    while difference := lists - count_records(server.url).total():
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return difference
