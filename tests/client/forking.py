"""Use one client in several processes at once; print one line about each.

    python tests/client/forking.py URL sync|async|threads|instance|function|dropped

Every process ranks lists of ids that no other process has. With `threads` the first process forks
while three threads make their first calls. `instance` and `function` pass `http`. With `dropped`
each child frees the connections that it inherited.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

from rerank_client import AsyncClient, Client, RerankResponse

PROCESSES, CALLS = 4, 60
PATIENT_MS = 30_000


def candidates(process: int, call: int) -> list[str]:
    return [f"{process}-{call}-{i}" for i in range(5)]


def is_right(response: RerankResponse, process: int, call: int) -> bool:
    return response.degraded is None and set(response.ids) == set(candidates(process, call))


def rank(client: Client, process: int, calls: range) -> int:
    """Return the number of right responses."""
    return sum(is_right(client.rerank(candidates(process, call)), process, call) for call in calls)


async def rank_async(client: AsyncClient, process: int, calls: range) -> int:
    responses = [await client.rerank(candidates(process, call)) for call in calls]
    return sum(is_right(response, process, i) for i, response in zip(calls, responses, strict=True))


def report(process: int, client: Client | AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
    """Rank in one process. The first process keeps its loop; a child needs one of its own."""
    try:
        if isinstance(client, Client):
            right = rank(client, process, range(CALLS))
            client.close()
        else:
            runner = loop.run_until_complete if process == 0 else asyncio.run
            right = runner(rank_async(client, process, range(CALLS)))
        line = f"{process}: {right} of {CALLS} right\n"
    except Exception as error:
        line = f"{process}: {type(error).__name__}: {error}\n"
    os.write(1, line.encode())


def main(url: str, mode: str) -> None:
    loop = asyncio.new_event_loop()
    client: Client | AsyncClient
    busy: list[threading.Thread] = []
    if mode == "async":
        client = AsyncClient(url, timeout_ms=PATIENT_MS)
        loop.run_until_complete(rank_async(client, 0, range(1)))  # opens a connection
    else:
        http: Any = None
        if mode in ("instance", "function"):
            http = httpx.Client() if mode == "instance" else httpx.Client
        client = Client(url, timeout_ms=PATIENT_MS, http=http)
        if mode == "threads":
            for number in range(PROCESSES, PROCESSES + 3):
                arguments = (client, number, range(CALLS))
                busy.append(threading.Thread(target=rank, args=arguments))
                busy[-1].start()
        else:
            rank(client, 0, range(1))
    children = []
    for process in range(1, PROCESSES):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that hangs
            if mode == "dropped":
                client._connections._open.clear()
            report(process, client, loop)
            os._exit(0)
        children.append(child)
    for thread in busy:
        thread.join()
    report(0, client, loop)
    for child in children:
        os.waitpid(child, 0)


def forked(url: str, mode: str) -> list[str]:
    """Run this program and return its lines, sorted."""
    done = subprocess.run(
        [sys.executable, __file__, url, mode],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "client")},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return sorted(done.stdout.splitlines())


if __name__ == "__main__":
    main(*sys.argv[1:])
