"""Kill the service, and Redis, at random moments while events arrive; then count what is there.

Clients send an event again, under its id, until it is acknowledged. Every acknowledged event must
be in the history of its user exactly once, and must have moved the counter of its item once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.errors import LoadTestError
from loadtest.measured import Bar, Measured
from loadtest.server import Server, serving
from loadtest.state.calls import Caller, Event, entity_path, feedback_body, put_records
from loadtest.state.command import EngineName, State
from loadtest.state.ledger import Ledger
from loadtest.state.stores import RedisServer, empty_store, redis_server, run_state

SETTINGS = {"adaptive_budget": "false"}
CLIENTS = 8
SHORTEST_S, LONGEST_S = 0.05, 0.6  # of load before a kill
PAUSE_S = 0.02  # before a refused call is sent again
LAST_S = 60.0  # limit for the last events to be acknowledged
REDIS_SHARE = 5  # kills of the service over LMDB for each over Redis


def measure(options: State) -> Measured:
    """Measure each engine. Raises ServerError or LoadTestError."""
    measured = Measured()
    for engine in options.engine:
        if engine == "redis":
            kills = max(1, options.kills // REDIS_SHARE)
            with redis_server(options, "kills-redis") as server:
                kill_and_count(measured, options, engine, server.url, kills, server)
            measured.add("kills of Redis under load", engine, kills, "kills")
        else:
            kills = options.kills
            with empty_store(options, engine, "kills") as address:
                kill_and_count(measured, options, engine, address, kills, None)
        measured.add("kills of the service under load", engine, kills, "kills")
    return measured


def kill_and_count(
    measured: Measured,
    options: State,
    engine: EngineName,
    address: str,
    kills: int,
    redis: RedisServer | None,
) -> None:
    """Kill the service again and again; let the last one acknowledge every event, and count."""
    draw, ledger = random.Random(0), Ledger(options.bundle)
    for kill in tqdm(range(kills), unit="kill", desc="kills", disable=None, leave=False):
        with serving(options.bundle, state=address, **SETTINGS) as server:
            if kill == 0:
                put_records(server.url, "items", ledger.items())
            seconds = draw.uniform(SHORTEST_S, LONGEST_S)
            before = None if redis is None else draw.uniform(0.0, seconds)
            asyncio.run(pour_until_kill(server, ledger, seconds, redis, before))
    with serving(options.bundle, state=address, **SETTINGS) as server:
        asyncio.run(pour_rest(server, ledger))
        add_counts(measured, engine, server, ledger)
    dump = options.scratch / f"kills-{engine}.msgpack"
    run_state("dump", address, dump)
    dump.unlink()


async def pour_until_kill(
    server: Server,
    ledger: Ledger,
    seconds: float,
    redis: RedisServer | None,
    redis_seconds: float | None,
) -> None:
    """Send events from CLIENTS clients until the process is killed after `seconds`.

    redis_seconds: when Redis is killed and started again.
    """
    tasks = [
        asyncio.create_task(send_batches(server.url, ledger, client)) for client in range(CLIENTS)
    ]
    ends = time.monotonic() + seconds
    if redis is not None and redis_seconds is not None:
        await asyncio.sleep(redis_seconds)
        redis.kill()
        redis.spawn()
        await asyncio.to_thread(redis.wait_until_ready)
    await asyncio.sleep(max(0.0, ends - time.monotonic()))
    kill_group(server.process)
    await asyncio.gather(*tasks)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a service with all of its processes."""
    os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own
    process.wait()


async def send_batches(url: str, ledger: Ledger, client: int) -> None:
    """Send batch after batch until the connection ends."""
    with contextlib.suppress(OSError):
        caller = await Caller.connect(url)
        try:
            while True:
                await send_batch(caller, ledger, client, ledger.pending_batch(client))
        finally:
            caller.close()


async def send_batch(caller: Caller, ledger: Ledger, client: int, batch: list[Event]) -> None:
    """Send a batch once. Raises OSError, LoadTestError for an answer that no retry can follow."""
    status, content = await caller.post("/feedback", feedback_body(batch))
    if status == 200:
        ledger.acknowledge(client, content)
    elif status in (429, 503):
        ledger.refusal = content
        await asyncio.sleep(PAUSE_S)
    else:
        raise LoadTestError(f"POST /feedback: status {status}: {content[:300]!r}")


async def pour_rest(server: Server, ledger: Ledger) -> None:
    """Send what was not acknowledged until it is. Raises LoadTestError."""
    deadline = time.monotonic() + LAST_S
    caller = await Caller.connect(server.url)
    try:
        while clients := ledger.waiting():
            if time.monotonic() > deadline:
                refusal = ledger.refusal[:300]
                raise LoadTestError(f"events were refused for {LAST_S:g} s: {refusal!r}")
            for client in clients:
                await send_batch(caller, ledger, client, ledger.pending_batch(client))
    finally:
        caller.close()


def read_record(client: httpx.Client, kind: str, name: str) -> dict[str, Any] | None:
    """Return the record of a user or an item, None if it is absent. Raises httpx.HTTPError."""
    response = client.get(entity_path(kind, name))
    if response.status_code == 404:
        return None
    record: dict[str, Any] = response.raise_for_status().json()
    return record


def add_counts(measured: Measured, engine: EngineName, server: Server, ledger: Ledger) -> None:
    """Read every user and item, and add what is missing or too much."""
    lost = repeated = moved = 0
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name in ledger.moments:
            record = read_record(client, "users", name) or {"history": {"time": []}}
            missing, extra = ledger.faults_of_user(name, record)
            lost, repeated = lost + missing, repeated + extra
        for name in ledger.shows:
            item = read_record(client, "items", name)
            moved += 1 if item is None else ledger.faults_of_item(name, item)
    none = Bar("==", 0)
    measured.add("acknowledged events", engine, ledger.acknowledged, "events")
    measured.add("of them sent again after they were kept", engine, ledger.duplicates, "events")
    measured.add("acknowledged events that are lost", engine, lost, "events", none)
    measured.add("events that are there more than once", engine, repeated, "events", none)
    measured.add("items whose counter differs from its events", engine, moved, "items", none)
