"""Measure bundles of large catalogues: size, start, memory of workers and latency.

`python -m export catalogue` writes a bundle of random items with an identifier, serves it with one
and two workers, brings in new and changed items, and swaps the bundle while it serves. With
--baseline the first two are done with an older checkout too, in turns.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from export.bench import catalogue_bundle
from export.bench.features import ROOT, commit_of

LISTS = (20, 500)  # candidates of the timed lists
TURN = 50  # requests that one checkout answers before the other
START_S = 120.0
UPDATES = 10_000  # items that are new, and as many that are changed
MB = 1e6


@dataclass(frozen=True)
class CatalogueOptions:
    """Measure the bundle of a large catalogue: size, start, memory, latency (minutes)."""

    items: int = 1_000_000
    """Items of the catalogue, each with an identifier of its own."""
    config: Path = Path("model/configs/served.yaml")
    """Training configuration whose networks get random weights; relative to each checkout."""
    scratch: Path = Path("build/catalogue")
    """Directory for the bundles, which are removed at the end."""
    out: Path = Path("docs/reports/catalogue_rows.json")
    """File for the report."""
    requests: int = 300
    """Timed requests of each size and checkout, rounded up to whole turns of 50."""
    baseline: Path | None = None
    """Checkout of another commit, which is measured in turns with this one."""


def measure_catalogue(options: CatalogueOptions) -> None:
    """Measure, write the report, and print it."""
    trees = {"this": ROOT} | ({"baseline": options.baseline} if options.baseline else {})
    rows: list[dict[str, Any]] = []
    shutil.rmtree(options.scratch, ignore_errors=True)
    try:
        bundles = {name: options.scratch.absolute() / name / "catalogue" / "1" for name in trees}
        for name, tree in tqdm(trees.items(), "write", disable=None):
            rows.append(write_bundle(name, tree, bundles[name], options))
        for workers in (1, 2):
            for name, tree in tqdm(trees.items(), f"start {workers}", disable=None):
                rows.append(measure_start(name, tree, bundles[name], workers, options.items))
        rows += measure_latency(trees, bundles, options)
        rows.append(bring_in_items(bundles["this"], options))
        rows.append(measure_swap(bundles["this"], options.items))
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)
    report: dict[str, Any] = {
        "command": f"python -m export catalogue --items {options.items}",
        "commits": {name: commit_of(tree) for name, tree in trees.items()},
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def environment_of(tree: Path) -> dict[str, str]:
    """Return the environment of a process over a checkout."""
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


def write_bundle(
    name: str, tree: Path, directory: Path, options: CatalogueOptions
) -> dict[str, Any]:
    """Write the bundle by the code of a checkout; return its row of the report."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    began = time.perf_counter()
    script = [sys.executable, "-P", catalogue_bundle.__file__]
    arguments = [str(options.config), str(options.items), str(directory)]
    run = subprocess.run(
        [*script, *arguments],
        env=environment_of(tree), cwd=tree, check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {
        "case": name, "items": options.items, "stage": "write bundle",
        "seconds": round(seconds, 1), "peak_mb": round(peak * 1024 / MB),
        "bundle_mb": round(json.loads(run.stdout)["bytes"] / MB),
    }  # fmt: skip


@contextlib.contextmanager
def serving(
    tree: Path, bundle: Path, workers: int, source: str = "--bundle"
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Serve a bundle by the code of a checkout; yield the process and its port once it is ready.

    source: --bundle, or --models for a store.
    """
    command = [sys.executable, "-m", "service", source, str(bundle), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--workers", str(workers)],
        env={**environment_of(tree), "RERANK_TIMEOUT_MS": "60000"},
        cwd=tree, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process, wait_until_ready(process, workers)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait_until_ready(process: subprocess.Popen[bytes], workers: int) -> int:
    """Return the port when every worker serves. Raises OSError after START_S seconds."""
    assert process.stderr is not None
    end, port, lines = time.monotonic() + START_S, 0, []
    while not port and process.poll() is None and time.monotonic() < end:
        line = process.stderr.readline().decode()
        lines.append(line)
        match = re.search(r"http://[\d.]+:(\d+)", line)
        port = int(match[1]) if match else 0
    while port and time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            page = get(port, "/metrics")
            serving_workers = re.search(r"^rerank_workers (\d+)", page, re.MULTILINE)
            if serving_workers and int(serving_workers[1]) == workers:
                return port
        time.sleep(0.02)
    raise OSError(f"the service did not start: {''.join(lines)}")


def get(port: int, path: str) -> str:
    """Return the body of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def measure_start(name: str, tree: Path, bundle: Path, workers: int, items: int) -> dict[str, Any]:
    """Start the service twice and return the row of the second start, with a warm page cache.

    cpu_seconds is the CPU time of all processes until they are ready, which other load of the
    machine changes little. Memory is measured after lists of all over the catalogue were ranked,
    and is the largest of all workers: anonymous in private_mb, mapped files and others in
    shared_mb.
    """
    for _ in range(2):
        began = time.perf_counter()
        with serving(tree, bundle, workers) as (process, port):
            seconds = time.perf_counter() - began
            pids = workers_of(process.pid)
            cpu = sum(map(cpu_seconds, {process.pid, *pids}))
            for seed in range(40):
                rank(port, body_of(items, LISTS[1], seed))
            memory = [memory_of(pid) for pid in pids]
    return {
        "case": name, "items": items, "stage": f"serve, {workers} workers",
        "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2),
        "private_mb": round(max(anonymous for anonymous, _ in memory) / MB),
        "shared_mb": round(max(others for _, others in memory) / MB),
    }  # fmt: skip


def workers_of(pid: int) -> list[int]:
    """Return the processes that answer: the children that serve, or the process itself."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in path.read_text().split()]
    serving_children = [
        child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return serving_children or [pid]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> tuple[int, int]:
    """Return the anonymous bytes of a process, and its other resident ones."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    sizes = {
        key: 1024 * int(value)
        for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
    }
    return sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"]


def bring_in_items(bundle: Path, options: CatalogueOptions) -> dict[str, Any]:
    """Write version 2 with as many new as changed items, and return the row of the report."""
    draw, table = random.Random(0), bundle.parent / "changes.csv"
    count = min(UPDATES, options.items // 2)
    ids = [catalogue_bundle.item_id(n) for n in draw.sample(range(options.items), count)]
    ids += [f"new-{number:06d}" for number in range(count)]
    lines = [f"{item},{draw.gauss(0, 1):.4f},brand-{draw.randrange(500):03d}\n" for item in ids]
    table.write_text("item_id,price,brand\n" + "".join(lines), encoding="ascii")
    began = time.perf_counter()
    command = [sys.executable, "-m", "export", "items", "--bundle", str(bundle)]
    arguments = ["--items", str(table), "--out", str(bundle.parent / "2")]
    run = [*command, *arguments]
    subprocess.run(run, env=environment_of(ROOT), cwd=ROOT, check=True, stdout=subprocess.PIPE)
    seconds = round(time.perf_counter() - began, 1)
    stage = f"bring in {count:,} new and {count:,} changed items"
    return {"case": "this", "items": options.items, "stage": stage, "seconds": seconds}


def measure_swap(bundle: Path, items: int) -> dict[str, Any]:
    """Return memory before and after the service swapped version 1 for version 2."""
    model = bundle.parent
    (model / "changes.csv").unlink()
    (model / "serving.json").write_text('{"active": "1"}')
    memory = []
    with serving(ROOT, model.parent, 1, "--models") as (process, port):
        for version in ("1", "2"):
            (model / "serving.json").write_text(json.dumps({"active": version}))
            end = time.monotonic() + START_S
            while json.loads(get(port, "/info"))["model"]["version"] != version:
                if time.monotonic() > end:
                    raise OSError(f"{model}: version {version} was not served in {START_S:g} s")
                time.sleep(0.05)
            for seed in range(40):
                rank(port, body_of(items, LISTS[1], seed))
            memory.append(memory_of(process.pid))
    return {
        "case": "this", "items": items, "stage": "swap version 1 for 2",
        "private_mb_before": round(memory[0][0] / MB), "private_mb": round(memory[1][0] / MB),
        "shared_mb": round(memory[1][1] / MB),
    }  # fmt: skip


def body_of(items: int, candidates: int, seed: int) -> bytes:
    """Return the body of a request with random ids."""
    draw = random.Random(seed)
    numbers = draw.sample(range(items), candidates)
    ids = [catalogue_bundle.item_id(number) for number in numbers]
    return json.dumps({"candidates": ids, "context": {"hour": "day"}}).encode()


def rank(port: int, body: bytes, connection: http.client.HTTPConnection | None = None) -> None:
    """Rank one list. Raises OSError for any answer but 200."""
    channel = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    channel.request("POST", "/rerank", body, {"Content-Type": "application/json"})
    response = channel.getresponse()
    content = response.read()
    if response.status != 200:
        raise OSError(f"/rerank: status {response.status}: {content[:500]!r}")
    if connection is None:
        channel.close()


def measure_latency(
    trees: dict[str, Path], bundles: dict[str, Path], options: CatalogueOptions
) -> list[dict[str, Any]]:
    """Return the median latency of each list size, the checkouts in turns."""
    times: dict[tuple[str, int], list[float]] = {}
    with contextlib.ExitStack() as stack:
        connections = {}
        for name, tree in trees.items():
            _, port = stack.enter_context(serving(tree, bundles[name], 1))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connections[name] = stack.enter_context(contextlib.closing(connection)), port
        for size in LISTS:
            for turn in tqdm(range(-(-options.requests // TURN)), f"rank {size}", disable=None):
                # A service at work finds its own data in the caches, so turns are long.
                for name, (connection, port) in list(connections.items())[:: 1 if turn % 2 else -1]:
                    for seed in range(turn * TURN, (turn + 1) * TURN):
                        body = body_of(options.items, size, seed)
                        began = time.perf_counter()
                        rank(port, body, connection)
                        times.setdefault((name, size), []).append(time.perf_counter() - began)
    return [
        {
            "case": name, "items": options.items, "stage": f"rank {size} candidates",
            "p50_ms": round(1e3 * float(np.median(seconds)), 2),
        }
        for (name, size), seconds in times.items()
    ]  # fmt: skip
