"""Read what was just written, at another worker or instance than the one that acknowledged it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from loadtest.balance import ESTABLISHED, sockets_of
from loadtest.measured import Bar, Measured
from loadtest.scenarios import Catalogue, read_bundle
from loadtest.server import Server, ServerError, serving
from loadtest.state.calls import (
    Caller,
    connected,
    event,
    feedback_body,
    now_ms,
    require_accepted,
)
from loadtest.state.command import EngineName, State

SETTINGS = {"adaptive_budget": "false", "timeout_ms": 20_000, "state_timeout_ms": 1000}
PAIRS = 8  # pairs of connections that try at the same time
CONNECTIONS = 4 * PAIRS
ANSWERS = 100  # of a user, before the next one
CANDIDATES = 3
START_S = 30.0  # limit for all workers to serve


def count_stale(
    measured: Measured, engine: EngineName, address: str, catalogue: Catalogue, options: State
) -> None:
    """Try to read every acknowledged event; add the number of tries and of stale reads."""
    with contextlib.ExitStack() as stack:
        if engine == "lmdb":
            server = stack.enter_context(
                serving(options.bundle, "--workers=2", state=address, **SETTINGS)
            )
            servers = [server]
        else:
            servers = [
                stack.enter_context(serving(options.bundle, state=address, **SETTINGS))
                for _ in range(2)
            ]
        limit = read_bundle(options.bundle, "features.json")["history"]["limit"]
        answers = min(ANSWERS, limit)  # a full history grows no more
        tries, stale = asyncio.run(try_all(servers, catalogue, options.tries, answers))
    where = "two workers" if engine == "lmdb" else "two instances"
    measured.add(f"reads of what the other of {where} acknowledged", engine, tries, "tries")
    measured.add(f"stale reads over {where}", engine, stale, "tries", Bar("==", 0))


async def try_all(
    servers: Sequence[Server], catalogue: Catalogue, tries: int, answers: int
) -> tuple[int, int]:
    """Return the number of tries and of stale reads. Raises ServerError."""
    if len(servers) == 1:
        await asyncio.to_thread(wait_for_workers, servers[0], 2)
    urls = [server.url for server in servers for _ in range(CONNECTIONS // len(servers))]
    async with connected(*urls) as callers:
        pairs = await pairs_of(servers, callers)
        shares = [len(part) for part in np.array_split(np.arange(tries), len(pairs))]
        with tqdm(total=tries, unit="try", desc="visibility", disable=None, leave=False) as bar:
            counts = await asyncio.gather(
                *(
                    try_pair(pair, catalogue, share, answers, bar)
                    for pair, share in zip(pairs, shares, strict=True)
                )
            )
    return tries, sum(counts)


async def pairs_of(
    servers: Sequence[Server], callers: Sequence[Caller]
) -> list[tuple[Caller, Caller]]:
    """Return pairs of connections that different workers or instances accepted.

    Raises ServerError if one worker accepted all of them.
    """
    if len(servers) == 2:
        half = len(callers) // 2
        return list(zip(callers[:half], callers[half:], strict=True))[:PAIRS]
    (server,) = servers
    for caller in callers:  # a connection is its worker's once it was accepted
        status, _ = await caller.post("/rerank", b"{}")
        assert status == 422
    by_worker: dict[int, list[Caller]] = {}
    owners = workers_by_port(server)
    for caller in callers:
        by_worker.setdefault(owners[caller.port], []).append(caller)
    if len(by_worker) != 2:
        raise ServerError(f"{server.url}: {len(by_worker)} of 2 workers accepted connections")
    first, second = by_worker.values()
    return list(zip(first, second, strict=False))[:PAIRS]


def wait_for_workers(server: Server, count: int) -> None:
    """Wait until so many workers serve; a service is ready with its first. Raises ServerError."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        page = httpx.get(f"{server.url}/metrics", timeout=START_S).text
        if sum(map(float, re.findall(r"^rerank_workers (\S+)$", page, re.M))) == count:
            return
        time.sleep(0.05)
    raise ServerError(f"{server.url}: {count} workers did not start in {START_S:g} s")


def workers_by_port(server: Server) -> dict[int, int]:
    """Return the process that accepted each connection, by the port of its other end."""
    port, pid = int(server.url.rsplit(":", 1)[1]), server.process.pid
    entries = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {
        entry[9]: int(entry[2].rpartition(":")[2], 16)
        for entry in entries
        if entry[3] == ESTABLISHED and int(entry[1].rpartition(":")[2], 16) == port
    }
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        ports[inode]: int(process)
        for process in (str(pid), *children)
        for inode in sockets_of(process)
        if inode in ports
    }


async def try_pair(
    pair: tuple[Caller, Caller], catalogue: Catalogue, tries: int, answers: int, bar: tqdm[Any]
) -> int:
    """Write at one connection, read at the other, then the other way round; count stale reads."""
    prefix, stale = uuid.uuid4().hex, 0
    draw = random.Random(prefix)
    candidates = catalogue.ids[:CANDIDATES]
    for attempt, (writer, reader) in zip(
        range(tries), itertools.cycle((pair, pair[::-1])), strict=False
    ):
        user = f"{prefix}-{attempt // answers}"
        written = event(f"{prefix}-{attempt}", user, draw.choice(catalogue.ids), 1.0, now_ms())
        require_accepted(*await writer.post("/feedback", feedback_body([written])), 1)
        ranking = {"user": {"id": user}, "candidates": candidates, "explain": True}
        response = await reader.post_json("/rerank", ranking)
        if response["state"]["user"] == "unavailable":
            raise ServerError(f"a lookup had no response: {response['state']}")
        stale += response["state"]["history"] < attempt % answers + 1
        bar.update()
    return stale
