"""CPU time of a list: of the machine, of this service's graph, of the work without a server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from peers.work import Work

BATCHES = (1, 2, 4, 8, 16)  # lists in a run of the work alone
# Metrics of this service that a run adds to.
COUNTERS = {
    "run_s": "inference_cpu_seconds_total",
    "lists": "batch_size_sum",
    "runs": "batch_size_count",
}


def machine_cpu_s(stat: Path = Path("/proc/stat")) -> float:
    """Return the seconds that this machine's cores have worked since it started."""
    ticks = stat.read_text("ascii").splitlines()[0].split()[1:8]
    user, nice, system, _, _, irq, softirq = map(int, ticks)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def run_counters(url: str) -> dict[str, float]:
    """Read this service's CPU seconds in runs, lists and runs so far."""
    text = httpx.get(f"{url}/metrics", timeout=10).text
    return {
        key: sum(map(float, re.findall(rf"^rerank_{name}(?:\{{.*\}})? (\S+)$", text, re.M)))
        for key, name in COUNTERS.items()
    }


def backend_of(url: str) -> str:
    """Return the backend that this service runs, "onnx" or "native"."""
    return str(httpx.get(f"{url}/info", timeout=10).json()["backend"]["name"])


def work_alone(
    bundle: Path, bodies: Sequence[bytes], seconds: float, backend: str
) -> list[dict[str, Any]]:
    """Return CPU milliseconds of a list without any server, for each batch size.

    Args:
        seconds: Time of each batch size.
        backend: That of this service; the exported graph is measured beside it.
    """
    works = {"exported": Work(bundle, backend="onnx")}
    if backend == "native":
        works["equal"] = Work(bundle, backend="native")
    return [
        {"work": name, **work_in_batches(work, bodies, batch, seconds)}
        for batch in BATCHES
        for name, work in works.items()
    ]


def work_in_batches(
    work: Work, bodies: Sequence[bytes], batch: int, seconds: float
) -> dict[str, float]:
    """Return CPU milliseconds of a list in each stage, in runs of `batch` lists."""
    spent, count, end = np.zeros(3), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        contents = [bodies[(count + i) % len(bodies)] for i in range(batch)]
        marks = [time.process_time()]
        parsed = [work.parse(content) for content in contents]
        marks.append(time.process_time())
        slates = work.run(parsed)
        marks.append(time.process_time())
        for each, slate in zip(parsed, slates, strict=True):
            work.respond(each, slate)
        marks.append(time.process_time())
        spent += np.diff(marks)
        count += batch
    parse, run, respond = (round(1e3 * float(s) / count, 3) for s in spent)
    return {"lists": batch, "parse_ms": parse, "run_ms": run, "respond_ms": respond}
