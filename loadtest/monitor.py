"""Memory, queue and budget level of a service, sampled while load is offered."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from loadtest.server import Server

PERIOD_S = 1.0


@contextlib.contextmanager
def monitored(server: Server) -> Iterator[list[dict[str, float]]]:
    """Yield a list that gets an entry about once a second.

    Keys: at (s from the start), rss_mb (resident memory), queue_depth and budget_level; the last
    two are missing when /metrics did not respond.
    """
    entries: list[dict[str, float]] = []
    done = threading.Event()
    began = time.monotonic()

    def watch() -> None:
        with httpx.Client(timeout=5) as client:
            while not done.wait(PERIOD_S):
                status = Path(f"/proc/{server.process.pid}/status").read_text()
                entry = {"at": time.monotonic() - began}
                entry["rss_mb"] = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024
                with contextlib.suppress(httpx.HTTPError):
                    text = client.get(f"{server.url}/metrics").text
                    for name in ("queue_depth", "budget_level"):
                        value = re.findall(rf"^rerank_{name} (\S+)$", text, re.M)
                        entry[name] = float(value[0])
                entries.append(entry)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield entries
    finally:
        done.set()
        thread.join()
