"""Balance between workers: how they share a burst of connections, and latency at equal load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from loadtest.contract_commands import Balance
from loadtest.cpu_turns import commit_of
from loadtest.errors import PASSED
from loadtest.generators import Generators, generators
from loadtest.results import Load, hardware
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import Server, ServerError, serving_under

# One process that ranks in a thread is compared too; the others never use one.
ONE_PROCESS = "one process, runs in a thread"
ON_LOOP, IN_THREAD = {"brief_run_ms": 1e6}, {"brief_run_ms": 0}
COMMON = {"adaptive_budget": "false", "timeout_ms": 20_000}
ESTABLISHED = "01"  # state of a connection in /proc/net/tcp
WARMUP_S = 1.0


def balance(options: Balance) -> int:
    """Measure all services in turns and write the report. Raises ServerError."""
    catalogue = Catalogue.of(options.bundle)
    requests = scenario("history", catalogue, RequestOptions(entropy_threshold=-1))
    trees = {"after": Path()}
    if options.baseline is not None:
        trees = {"before": options.baseline, **trees}
    workers = (f"--workers={options.workers}",)
    cases: dict[str, tuple[Path, tuple[str, ...], dict[str, object]]]
    cases = {case: (tree, workers, COMMON | ON_LOOP) for case, tree in trees.items()}
    cases[ONE_PROCESS] = (Path(), (), COMMON | IN_THREAD)
    rows: dict[str, dict[str, list[Any]]] = {
        case: {"connections": [], "p50_ms": [], "p99_ms": []} for case in cases
    }
    with contextlib.ExitStack() as stack:
        load_generators = stack.enter_context(generators(1))
        servers = {
            case: stack.enter_context(
                serving_under((), options.bundle, arguments, settings, checkout=tree)
            )
            for case, (tree, arguments, settings) in cases.items()
        }
        for turn in tqdm(range(options.rounds), disable=None):
            for case, server in servers.items():
                measure(server, load_generators, requests, options, turn, rows[case])
    report = {
        "command": "python -m loadtest balance --baseline CHECKOUT",
        "commits": {case: commit_of(tree) for case, tree in trees.items()},
        "machine": hardware(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "workers": options.workers,
        "rate": options.rate,
        "rows": [{"case": case, **row} for case, row in rows.items()],
    }
    options.out.write_text(json.dumps(report) + "\n", "utf-8")
    print(json.dumps(report, indent=1))
    return PASSED


def measure(
    server: Server,
    load_generators: Generators,
    requests: Scenario,
    options: Balance,
    turn: int,
    row: dict[str, list[Any]],
) -> None:
    """Add one turn to the row of a service."""
    try:
        row["connections"].append(asyncio.run(burst(server, requests, options.connections)))
    except httpx.HTTPError as error:
        raise ServerError(f"{type(error).__name__}: {error}") from error
    load = Load(options.rate, options.seconds, WARMUP_S, seed=turn)
    samples = load_generators.offer(server.url, requests, load).samples
    latencies_ms = 1e3 * np.array([sample.latency_s for sample in samples])
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        row[name].append(round(float(np.quantile(latencies_ms, share)), 1))


async def burst(server: Server, requests: Scenario, count: int) -> list[int]:
    """Send requests at once over new connections; return how many each process has accepted."""
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
        posts = (client.post(requests.path, content=body) for body in requests.bodies[:count])
        for response in await asyncio.gather(*posts):
            response.raise_for_status()
        return connections_by_process(server)


def connections_by_process(server: Server) -> list[int]:
    """Return the open connections of each process of a service that has any, in ascending order."""
    port = int(server.url.rsplit(":", 1)[1])
    entries = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    accepted = {
        entry[9]
        for entry in entries
        if entry[3] == ESTABLISHED and int(entry[1].rpartition(":")[2], 16) == port
    }
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    counts = [len(accepted & sockets_of(process)) for process in (str(pid), *children)]
    return sorted(count for count in counts if count)


def sockets_of(process: str) -> set[str]:
    """Return the inodes of the sockets of a process."""
    inodes = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
            if match is not None:
                inodes.add(match[1])
    return inodes
