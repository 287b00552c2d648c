"""Reads the processes of a running service and their metrics, and waits for them."""

import contextlib
import re
import time
from pathlib import Path

import httpx


def poll(condition, seconds, every=0.02):
    """Return the first true value of `condition`, or None after `seconds`."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        value = condition()
        if value:
            return value
        time.sleep(every)
    return None


def workers_of(server):
    """Return the process ids of a service's workers, without Python's helper processes."""
    parent = server.process.pid
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    workers = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                workers.append(int(pid))
    return workers


def total(text, metric):
    """Return the sum of a metric's samples on a page of metrics."""
    values = re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values))


def metric(server, name):
    """Return the sum of a metric's samples, or None if no worker answers."""
    try:
        return total(httpx.get(f"{server.url}/metrics", timeout=5).text, name)
    except httpx.TransportError:  # of a worker that is being killed
        return None


def both_serve(server):
    """Tell if both workers of a service of two serve; a process alone accepts no connection yet."""
    return metric(server, "rerank_workers") == 2
