"""The cost of lookups: the same requests to a service without a store and to services with one.

Every service answers a block of requests in turn, so that all meet the same machine. `added` is the
difference between the same request, which states its history, with a store and without one: user
and items are read then, and the work of the model is equal.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from tqdm import tqdm

from loadtest.capacity import Bound, CapacityResult, capacity
from loadtest.generators import generators
from loadtest.measured import Bar, Measured
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import Server, ServerError, serving
from loadtest.state.calls import Caller, connected, put_records
from loadtest.state.command import EngineName, State
from loadtest.state.entities import item_records
from loadtest.state.stores import empty_store

CANDIDATES = 50
USERS = 64
BLOCK = 50  # requests of one service in a row
SETTINGS = {"adaptive_budget": "false", "timeout_ms": 20_000}
# A run in a thread costs more than one on the event loop; a busy machine must not choose.
STEADY = SETTINGS | {"brief_run_ms": 1e6}
SEARCHES = 2
LIMITS: dict[EngineName, dict[str, float]] = {
    "lmdb": {"p50": 0.10, "p99": 1.0, "cpu": 0.08},
    "redis": {"p50": 0.25, "p99": 1.0, "cpu": 0.22},
}


@dataclass(frozen=True)
class Bodies:
    """The same requests with the history inline, with the user's id alone, and the users."""

    inline: Sequence[bytes]
    by_id: Sequence[bytes]
    users: Sequence[Mapping[str, Any]]


@dataclass
class Case:
    """A service and the bodies that it gets, with the figures of each turn."""

    server: Server
    bodies: Sequence[bytes]
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def measure(options: State) -> Measured:
    """Measure latency and CPU time in turns, then capacity. Raises ServerError."""
    measured, catalogue = Measured(), Catalogue.of(options.bundle)
    bodies = bodies_of(catalogue)
    with contextlib.ExitStack() as stack:
        servers = {"off": stack.enter_context(serving(options.bundle, **STEADY))}
        cases = {("off", "inline"): Case(servers["off"], bodies.inline)}
        for engine in options.engine:
            address = stack.enter_context(empty_store(options, engine, "lookup"))
            server = stack.enter_context(serving(options.bundle, state=address, **STEADY))
            put_records(server.url, "items", item_records(catalogue, catalogue.ids))
            put_records(server.url, "users", bodies.users)
            servers[engine] = server
            cases[engine, "inline"] = Case(server, bodies.inline)
            cases[engine, "by id"] = Case(server, bodies.by_id)
        asyncio.run(run_turns(list(cases.values()), options))
        for engine in options.engine:
            add_rows(measured, cases, engine)
            measured.add("mean time of a lookup", engine, lookup_ms(servers[engine]), "ms")
        add_capacities(measured, servers, bodies, options)
    return measured


def bodies_of(catalogue: Catalogue) -> Bodies:
    """Return requests of USERS users with 50 candidates and 48 answers each."""
    requests = RequestOptions(min(CANDIDATES, len(catalogue.ids)), entropy_threshold=-1)
    inline, by_id, users = [], [], []
    bodies = scenario("returning", catalogue, requests, count=USERS).bodies
    for number, body in enumerate(map(orjson.loads, bodies)):
        name = f"user-{number}"
        history = [{**entry, "label": float(entry["label"])} for entry in body["user"]["history"]]
        inline.append(orjson.dumps({**body, "user": {"id": name, "history": history}}))
        by_id.append(orjson.dumps({**body, "user": {"id": name}}))
        users.append({"user": name, "history": history})
    return Bodies(inline, by_id, users)


async def run_turns(cases: Sequence[Case], options: State) -> None:
    """Send the requests of every turn in blocks; the first turn is a warm-up."""
    blocks = max(1, options.requests // BLOCK)
    async with connected(*(case.server.url for case in cases)) as callers:
        for turn in tqdm(range(options.turns + 1), desc="lookup", disable=None, leave=False):
            latencies: list[list[float]] = [[] for _ in cases]
            cpu = [0.0] * len(cases)
            for block in range(blocks):
                for place in np.roll(np.arange(len(cases)), block).tolist():
                    case = cases[place]
                    before = cpu_seconds(case.server)
                    latencies[place] += await send_block(callers[place], case.bodies, block)
                    cpu[place] += cpu_seconds(case.server) - before
            if turn:
                for case, times, seconds in zip(cases, latencies, cpu, strict=True):
                    case.p50_ms.append(1e3 * float(np.quantile(times, 0.5)))
                    case.p99_ms.append(1e3 * float(np.quantile(times, 0.99)))
                    case.cpu_ms.append(1e3 * seconds / len(times))


async def send_block(caller: Caller, bodies: Sequence[bytes], block: int) -> list[float]:
    """Send BLOCK requests one after the other and return their latencies in seconds."""
    latencies = []
    for number in range(block * BLOCK, (block + 1) * BLOCK):
        began = time.perf_counter()
        status, content = await caller.post("/rerank", bodies[number % len(bodies)])
        latencies.append(time.perf_counter() - began)
        if status != 200:
            raise ServerError(f"POST /rerank: status {status}: {content[:300]!r}")
    return latencies


def cpu_seconds(server: Server) -> float:
    """Return the CPU time that the threads of a process have used, to the microsecond."""
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def add_rows(measured: Measured, cases: dict[tuple[str, str], Case], engine: EngineName) -> None:
    """Add the differences of each turn: with the store and without, by id and inline."""
    off, inline, by_id = cases["off", "inline"], cases[engine, "inline"], cases[engine, "by id"]
    limits = LIMITS[engine]
    for name, attribute in (("p50", "p50_ms"), ("p99", "p99_ms"), ("cpu", "cpu_ms")):
        title = "CPU time" if name == "cpu" else f"{name} latency"
        without, with_store, with_id = (
            np.array(getattr(case, attribute)) for case in (off, inline, by_id)
        )
        measured.add(f"{title} without a store", engine, without.tolist(), "ms")
        measured.add(
            f"{title} added by the store", engine, (with_store - without).tolist(), "ms",
            Bar("<=", limits[name]),
        )  # fmt: skip
        measured.add(
            f"{title} by id, over inline history without a store", engine,
            (with_id - without).tolist(), "ms",
        )  # fmt: skip


def lookup_ms(server: Server) -> float:
    """Return the mean time of the lookups of a service so far, in ms."""
    page = httpx.get(f"{server.url}/metrics", timeout=10).text
    total, count = (
        sum(map(float, re.findall(rf"^rerank_state_duration_seconds_{end} (\S+)$", page, re.M)))
        for end in ("sum", "count")
    )
    return 1e3 * total / count


def add_capacities(
    measured: Measured, servers: dict[str, Server], bodies: Bodies, options: State
) -> None:
    """Search the capacity with histories inline without a store, and by id with each, in turns."""
    requests = {
        name: Scenario(name, "/rerank", bodies.inline if name == "off" else bodies.by_id)
        for name in servers
    }
    results = {name: CapacityResult() for name in servers}
    with generators(1) as load_generators:
        for repeat in tqdm(range(SEARCHES), desc="capacity", disable=None, leave=False):
            for name in list(servers)[:: -1 if repeat % 2 else 1]:
                rates = results[name].rates
                capacity(
                    load_generators, servers[name].url, requests[name], Bound(), options.seconds,
                    repeats=1, start=0.9 * rates[-1] if rates and rates[-1] else 400.0,
                    result=results[name],
                )  # fmt: skip
    off = results["off"].rates
    for engine in options.engine:
        rates = results[engine].rates
        measured.add("capacity with inline history, without a store", engine, off, "lists/s")
        measured.add("capacity by id", engine, rates, "lists/s")
        ratios = [by_id / max(inline, 1.0) for by_id, inline in zip(rates, off, strict=True)]
        measured.add("capacity by id over inline", engine, ratios, "ratio", Bar(">", 1.0))
