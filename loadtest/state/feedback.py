"""Feedback: events per second, the time of one event, and reads of what was just written."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
import numpy as np
from tqdm import tqdm

from loadtest.measured import Bar, Measured
from loadtest.scenarios import Catalogue
from loadtest.server import serving
from loadtest.state.calls import (
    Caller,
    Event,
    connected,
    event,
    feedback_body,
    now_ms,
    put_records,
    require_accepted,
)
from loadtest.state.command import EngineName, State
from loadtest.state.entities import item_records
from loadtest.state.stores import RedisServer, empty_directory, redis_server
from loadtest.state.visibility import count_stale

SETTINGS = {"adaptive_budget": "false", "timeout_ms": 20_000}
CALL = 100  # events of a large call
CLIENTS = 8  # that send at the same time
USERS = 20_000
COMMITS = 100  # that are timed in a turn
RATE = 5000
OVER_COMMIT_MS = 3.0


def measure(options: State) -> Measured:
    """Measure each engine. Raises ServerError."""
    measured, catalogue = Measured(), Catalogue.of(options.bundle)
    for engine in options.engine:
        if engine == "redis":
            with redis_server(options, "feedback-redis") as server:
                commits = partial(commits_of_redis, server)
                add_times(measured, engine, server.url, commits, options)
                count_stale(measured, engine, server.url, catalogue, options)
            continue
        directory = empty_directory(options.scratch / "feedback-lmdb").resolve()
        try:
            commits = partial(commits_of_lmdb, empty_directory(directory / "commits"))
            add_times(measured, engine, f"lmdb://{directory / 'rates'}", commits, options)
            count_stale(measured, engine, f"lmdb://{directory / 'reads'}", catalogue, options)
        finally:
            empty_directory(directory).rmdir()
    return measured


def add_times(
    measured: Measured,
    engine: EngineName,
    address: str,
    commits: Callable[[], list[float]],
    options: State,
) -> None:
    """Add events per second in large calls, and the time of single events beside a commit's.

    commits: commits alone, and returns the seconds of each.
    """
    catalogue = Catalogue.of(options.bundle)
    events = endless_events(catalogue)
    rates, commits_ms, singles, grouped = [], [], [], []
    with serving(options.bundle, state=address, **SETTINGS) as server:
        # An event moves only counters that there are.
        put_records(server.url, "items", item_records(catalogue, catalogue.ids))
        for turn in tqdm(range(options.turns + 1), desc="feedback", disable=None, leave=False):
            rate, _ = asyncio.run(send_turn(server.url, events, CLIENTS, CALL, options.seconds))
            taken = commits()
            alone = asyncio.run(send_turn(server.url, events, 1, 1, options.seconds / 3))
            together = asyncio.run(send_turn(server.url, events, CLIENTS, 1, options.seconds / 3))
            if turn:  # the first turn is a warm-up
                rates.append(rate)
                commits_ms.append(1e3 * float(np.quantile(taken, 0.5)))
                singles.append(1e3 * float(np.quantile(alone[1], 0.5)))
                grouped.append(1e3 * float(np.quantile(together[1], 0.5)))
    bar = Bar(">=", RATE)
    measured.add(f"events in calls of {CALL}, {CLIENTS} clients", engine, rates, "events/s", bar)
    measured.add("durable commit of one small value, p50", engine, commits_ms, "ms")
    limit = Bar("<=", round(2 * float(np.mean(commits_ms)) + OVER_COMMIT_MS, 2))
    measured.add("single events of one client, p50", engine, singles, "ms", limit)
    measured.add(f"single events of {CLIENTS} clients, p50", engine, grouped, "ms")


def endless_events(catalogue: Catalogue) -> Iterator[Event]:
    """Yield answers of many users to the bundle's items, each with an id of its own."""
    draw, prefix = random.Random(0), uuid.uuid4().hex
    for number in itertools.count():
        user = f"user-{draw.randrange(USERS)}"
        item = draw.choice(catalogue.ids)
        yield event(f"{prefix}-{number}", user, item, number % 5 == 0, now_ms())


async def send_turn(
    url: str, events: Iterator[Event], clients: int, size: int, seconds: float
) -> tuple[float, list[float]]:
    """Send calls of `size` events; each client waits for its answer before it sends again.

    Returns events per second, and the seconds that each call took. Raises ServerError.
    """
    taken: list[float] = []
    began = time.perf_counter()

    async def client(caller: Caller) -> None:
        while time.perf_counter() - began < seconds:
            body = feedback_body(list(itertools.islice(events, size)))
            sent = time.perf_counter()
            status, content = await caller.post("/feedback", body)
            taken.append(time.perf_counter() - sent)
            require_accepted(status, content, size)

    async with connected(*[url] * clients) as callers:
        await asyncio.gather(*map(client, callers))
    return len(taken) * size / (time.perf_counter() - began), taken


def commits_of_lmdb(directory: Path) -> list[float]:
    """Return the seconds of durable commits of one small value to an LMDB file."""
    taken = []
    with lmdb.Environment(str(directory), map_size=1 << 24) as environment:
        for number in range(COMMITS):
            began = time.perf_counter()
            with environment.begin(write=True) as transaction:
                transaction.put(str(number).encode(), bytes(100))
            taken.append(time.perf_counter() - began)
    return taken


def commits_of_redis(server: RedisServer) -> list[float]:
    """Return the seconds of SET of one small value, which Redis answers when it is on the disk."""
    taken = []
    with server.client() as client:
        for number in range(COMMITS):
            began = time.perf_counter()
            client.set(f"commit:{number}", bytes(100))
            taken.append(time.perf_counter() - began)
    return taken
