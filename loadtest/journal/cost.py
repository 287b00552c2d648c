"""CPU time, latency and bytes of a list with a journal against one without, in turns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from loadtest.generators import Generators, generators
from loadtest.journal.command import Journal
from loadtest.journal.metrics import records_written
from loadtest.measured import Bar, Measured
from loadtest.results import Load
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import Server, serving

SCENARIOS = ("history", "inline")
MAX_CPU_MS = 0.06
OFF, ON = "off", "on"
SETTINGS = {"adaptive_budget": "false", "journal_flush_ms": 1000.0}  # the latter as by default
SETTLE_S = 1.2  # after a turn, in which the journal is flushed
WARMUP_S = 0.5
RESAMPLES = 2000
FIGURES = {"cpu": "CPU of a list", "p50": "p50", "p99": "p99"}


def measure(options: Journal, directory: Path) -> Measured:
    """Measure every scenario. Raises ServerError, and httpx.HTTPError for a failed request.

    Args:
        directory: Where the journal is written.
    """
    measured = Measured()
    catalogue = Catalogue.of(options.bundle)
    journals = {OFF: "off", ON: f"files://{directory.resolve()}"}
    with contextlib.ExitStack() as stack:
        sending = stack.enter_context(generators(1))
        servers = {
            name: stack.enter_context(serving(options.bundle, journal=journal, **SETTINGS))
            for name, journal in journals.items()
        }
        for name in SCENARIOS:
            requests = scenario(name, catalogue, RequestOptions())
            before = size_of(directory), records_written(servers[ON].url)
            add_rows(measured, name, take_turns(servers, requests, options, sending))
            size, records = size_of(directory), records_written(servers[ON].url)
            bytes_a_list = (size - before[0]) / (records - before[1])
            measured.add("bytes of a list in the journal", name, bytes_a_list, "bytes")
    return measured


def take_turns(
    servers: Mapping[str, Server], requests: Scenario, options: Journal, sending: Generators
) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds by server and figure, one value a turn."""
    turns: dict[str, dict[str, list[float]]] = {
        server: {name: [] for name in FIGURES} for server in servers
    }
    for turn in tqdm(range(options.turns), unit="turn", desc=requests.name, disable=None):
        for name in list(servers)[:: -1 if turn % 2 else 1]:
            url = servers[name].url
            load = Load(options.rate, options.seconds, WARMUP_S, seed=turn)
            cpu = cpu_ms(servers[name], requests, options.requests)
            run = sending.offer(url, requests, load)
            time.sleep(SETTLE_S)
            if turn:  # the first turn is a warm-up
                values = (cpu, run.latency_ms(0.5), run.latency_ms(0.99))
                for figure, value in zip(FIGURES, values, strict=True):
                    turns[name][figure].append(value)
    return turns


def cpu_ms(server: Server, requests: Scenario, count: int) -> float:
    """Return the CPU milliseconds of a list, with those of the thread that writes the journal."""
    before = cpu_seconds(server)
    with httpx.Client(base_url=server.url) as client:
        for number in range(count):
            body = requests.bodies[number % len(requests.bodies)]
            client.post(requests.path, content=body).raise_for_status()
    time.sleep(SETTLE_S)
    return 1e3 * (cpu_seconds(server) - before) / count


def cpu_seconds(server: Server) -> float:
    """Return the CPU seconds of all threads of a service of one process."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def size_of(directory: Path) -> int:
    """Return the bytes of the files of a directory."""
    return sum(path.stat().st_size for path in directory.iterdir())


def add_rows(measured: Measured, name: str, turns: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the rows of one kind of requests: CPU of each service, and what the journal adds."""
    for server, figures in turns.items():
        measured.add(f"CPU of a list, journal {server}", name, figures["cpu"], "ms")
    for figure, label in FIGURES.items():
        mean, low, high = interval(np.subtract(turns[ON][figure], turns[OFF][figure]))
        # Latency has no bar but noise: an interval above zero is more than that.
        bar, compared = (Bar("<=", MAX_CPU_MS), mean) if figure == "cpu" else (Bar("<=", 0), low)
        measured.add_interval(f"added to {label}", name, (mean, low, high), "ms", bar, compared)


def interval(differences: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Return the mean of paired differences with its 95 % bootstrap interval."""
    draw = np.random.default_rng(0)
    values = np.asarray(differences, np.float64)
    means = draw.choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)
