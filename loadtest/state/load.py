"""A large store: the rate of `state load`, its size, memory and start, and reads beside writes."""

from __future__ import annotations

import random
import re
import time
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import orjson

from loadtest.generators import Generators, generators
from loadtest.measured import Bar, Measured
from loadtest.results import Load, RateResult
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import Server, ServerError, serving
from loadtest.state.calls import event, now_ms
from loadtest.state.command import EngineName, State
from loadtest.state.entities import ANSWERS, write_items, write_users
from loadtest.state.stores import describe_store, empty_store, run_state
from loadtest.state.writes import steady_feedback

BODIES = 500
READS_PER_S = 100.0
WRITES_PER_S = 1000
WARM_UP_S = 1.0  # before the rankings that count
SETTINGS = {"adaptive_budget": "false", "timeout_ms": 20_000}
RATE, MEMORY_MB, START_S = 20_000, 300, 10


def measure(options: State) -> Measured:
    """Generate the files once, then load them into a store of each engine. Raises ServerError."""
    measured, catalogue = Measured(), Catalogue.of(options.bundle)
    options.scratch.mkdir(parents=True, exist_ok=True)
    users, items = options.scratch / "users.msgpack", options.scratch / "items.msgpack"
    # The items that the service ranks are among those of the store.
    more = max(0, options.items - len(catalogue.ids))
    ids = [*catalogue.ids, *(f"item-{number}" for number in range(more))][: options.items]
    try:
        write_users(users, options.users, ids)
        write_items(items, catalogue, ids)
        for engine in options.engine:
            with empty_store(options, engine, "load") as address:
                add_load(measured, engine, address, users, items, options)
                add_service(measured, engine, address, catalogue, options)
    finally:
        users.unlink(missing_ok=True)
        items.unlink(missing_ok=True)
    return measured


def add_load(
    measured: Measured, engine: EngineName, address: str, users: Path, items: Path, options: State
) -> None:
    """Load both files, and add rates and sizes; a command returns when the disk has everything."""
    seconds, sizes = [], [describe_store(address)["bytes"]]
    for path in (users, items):
        began = time.monotonic()
        run_state("load", address, path, "--history", ANSWERS)
        seconds.append(time.monotonic() - began)
        sizes.append(describe_store(address)["bytes"])
    counts = (options.users, options.items)
    names = (f"users with {ANSWERS} answers", "items")
    for name, count, taken in zip(names, counts, seconds, strict=True):
        measured.add(f"state load, {count:,} {name}", engine, count / taken, "entities/s")
    mean = sum(counts) / sum(seconds)
    bar = Bar(">=", RATE) if engine == "lmdb" else None
    measured.add("state load, users and items", engine, mean, "entities/s", bar)
    kind = "disk" if engine == "lmdb" else "memory of the server"
    for name, count, (before, after) in zip(names, counts, pairwise(sizes), strict=True):
        measured.add(f"{kind} per entity, {name}", engine, (after - before) / count, "bytes")
    measured.add(f"{kind}, users and items", engine, sizes[-1] / 1e6, "MB")


def add_service(
    measured: Measured, engine: EngineName, address: str, catalogue: Catalogue, options: State
) -> None:
    """Start a service over the store; add its start, memory and reads with and without writes."""
    scenarios = reads_of(catalogue, options.users)
    with generators(1) as load_generators:
        with serving(options.bundle, **SETTINGS) as server:
            offer(load_generators, server, scenarios, options)
            without = anonymous_mb(server)
        began = time.monotonic()
        with serving(options.bundle, state=address, **SETTINGS) as server:
            started = time.monotonic() - began
            quiet = offer(load_generators, server, scenarios, options)
            lookups = lookup_counts(server)
            events, began = events_of(catalogue, options.users), time.monotonic()
            with steady_feedback(server.url, events, WRITES_PER_S) as sent:
                busy = offer(load_generators, server, scenarios, options)
                writes_per_s = sum(sent) / (time.monotonic() - began)
            beside = lookup_quantile(lookups, lookup_counts(server), 0.99)
            memory = anonymous_mb(server)
    measured.add("start until ready", engine, started, "s", Bar("<=", START_S))
    measured.add("anonymous memory of the worker", engine, memory, "MB", Bar("<=", MEMORY_MB))
    measured.add("anonymous memory without a store", engine, without, "MB")
    rate = f"at {READS_PER_S:g} lists/s"
    measured.add(f"p99 of rankings {rate}", engine, quiet.latency_ms(0.99), "ms")
    writes = "beside writes"
    measured.add("events written meanwhile", engine, writes_per_s, "events/s")
    measured.add(f"p99 of rankings {rate} {writes}", engine, busy.latency_ms(0.99), "ms")
    measured.add(f"p99 of lookups {writes}, at most", engine, 1e3 * beside, "ms")


def reads_of(catalogue: Catalogue, users: int) -> Scenario:
    """Return rankings of users that the store has."""
    draw = random.Random(2)
    requests = RequestOptions(min(50, len(catalogue.ids)))
    bodies = scenario("ids", catalogue, requests, count=BODIES).bodies
    named = [
        orjson.dumps({**orjson.loads(body), "user": {"id": f"u{draw.randrange(users)}"}})
        for body in bodies
    ]
    return Scenario("by id", "/rerank", named)


def events_of(catalogue: Catalogue, users: int) -> list[dict[str, object]]:
    """Return answers of users that the store has, enough for many calls."""
    draw = random.Random(3)
    return [
        event(
            "", f"u{draw.randrange(users)}", draw.choice(catalogue.ids), number % 5 == 0, now_ms()
        )
        for number in range(10_000)
    ]


def offer(
    load_generators: Generators, server: Server, requests: Scenario, options: State
) -> RateResult:
    """Offer rankings in an open loop. Raises ServerError if one fails."""
    load = Load(READS_PER_S, 2 * options.seconds, warmup=WARM_UP_S)
    result = load_generators.offer(server.url, requests, load)
    if result.failed:
        raise ServerError(f"{server.url}: rankings failed: {dict(result.failures)}")
    return result


def anonymous_mb(server: Server) -> float:
    """Return the anonymous resident memory of a process: without files that it has mapped."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+)", status)[0]) * 1024 / 1e6


def lookup_counts(server: Server) -> dict[float, float]:
    """Return the number of lookups so far that took at most so many seconds."""
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    pattern = r'^rerank_state_duration_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\S+)$'
    return {float(bound): float(count) for bound, count in re.findall(pattern, text, re.M)}


def lookup_quantile(
    before: dict[float, float], after: dict[float, float], quantile: float
) -> float:
    """Return the bound of the bucket that holds a quantile of the lookups in between."""
    bounds = sorted(after)
    counts = np.array([after[bound] - before.get(bound, 0.0) for bound in bounds])
    if not bounds or counts[-1] <= 0:
        raise ServerError("/metrics: no lookup was counted; is the store open?")
    return bounds[int(np.argmax(counts >= quantile * counts[-1]))]
