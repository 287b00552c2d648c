"""Measure a history kernel over a large vocabulary and write docs/reports/catalogue_kernel.json.

The commands of the project run as processes of their own, from the raw log to the service.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from model.study.catalogue import write_page
from model.study.commands import Scale, cache_directory, command_line, report_directory
from model.study.long_log import CANDIDATES, write_long_log
from model.study.pages import provenance
from model.study.process_memory import watch
from model.study.worth import serving

ITEMS = 1_000_000
LISTS_PER_USER = 8  # so that most lists have a history
TRAINED = 512  # lists
LISTED, HISTORY = CANDIDATES, 48  # candidates and answers of a request
REQUESTS = 200
FILE = "catalogue_kernel.json"
Row = dict[str, Any]


def measure(command: Scale, rows: int, scratch: Path) -> list[Row]:
    """Return a row for each stage from preparation to service; `scratch` is left empty."""
    assert command.categories is not None
    directory, items = scratch / f"kernel-{rows}", ITEMS if rows >= ITEMS else rows
    shutil.rmtree(directory, ignore_errors=True)
    try:
        users = max(1, rows // CANDIDATES // LISTS_PER_USER)
        write_long_log(directory, rows, users, items, genres=command.categories)
        measured = [*_build(directory, command), _serve(directory / "kernel" / "1", items)]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    common = {"case": f"kernel over {command.categories:,} categories", "rows": rows}
    return [{**common, "items": items, **row} for row in measured]


def _build(directory: Path, command: Scale) -> list[Row]:
    """Prepare, train a miniature of full width, and export; return their rows."""
    data, run, bundle = directory / "data", directory / "run", directory / "kernel" / "1"
    config = yaml.safe_load(command.config.read_text(encoding="utf-8"))
    config_of_run = directory / "config.yaml"
    config_of_run.write_text(yaml.safe_dump(config | {"train_lists": TRAINED}), encoding="utf-8")
    log = ["--log", directory / "log", "--items", directory / "items.parquet"]
    training = ["--data", data, "--config", config_of_run, "--epochs", 1]
    training += ["--smoke"] if command.smoke else []
    stages: dict[str, Sequence[object]] = {
        "prepare": ("model", "prepare", "impressions", *log,
                    "--schema", directory / "schema.yaml", "--out", data),
        "train": ("model", "train", *training, "--out", run),
        "export": ("export", "--checkpoint", run, "--data", data, "--out", bundle),
    }  # fmt: skip
    measured = []
    for name, words in stages.items():
        (stage,) = watch([sys.executable, "-m", *map(str, words)], partial(str, name))
        measured.append(
            {"stage": name, "seconds": round(stage.seconds, 1), "peak_mb": round(stage.peak_mb)}
        )
    size = sum(path.stat().st_size for path in bundle.iterdir())
    measured[-1]["bundle_mb"] = round(size / 1e6)
    return measured


def _serve(bundle: Path, items: int) -> Row:
    """Serve the bundle, rank lists with a history, and return the row of the report.

    peak_mb is the largest resident memory with mapped files, private_mb the anonymous part at the
    end.
    """
    draw, times = random.Random(0), []
    began = time.perf_counter()
    with serving(bundle, bundle.parent / "service.log") as service:
        seconds = time.perf_counter() - began
        for _ in range(REQUESTS):
            ids = [f"i{number:07d}" for number in draw.sample(range(items), LISTED + HISTORY)]
            history = [{"id": item, "label": draw.randrange(2)} for item in ids[LISTED:]]
            body = {"candidates": ids[:LISTED], "user": {"history": history}}
            request = urllib.request.Request(
                f"{service.url}/rerank", json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )  # fmt: skip
            began = time.perf_counter()
            with urllib.request.urlopen(request, timeout=60) as response:
                response.read()
            times.append(time.perf_counter() - began)
        process = Path(f"/proc/{service.pid}")
        peak = _kilobytes(process / "status", "VmHWM")
        anonymous = _kilobytes(process / "smaps_rollup", "Anonymous")
    return {
        "stage": "serve", "seconds": round(seconds, 1), "peak_mb": round(peak / 1024),
        "private_mb": round(anonymous / 1024), "p50_ms": round(1e3 * statistics.median(times), 2),
    }  # fmt: skip


def _kilobytes(path: Path, field: str) -> int:
    """Return a size of a process from a file in /proc."""
    match = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(encoding="ascii"), re.MULTILINE)
    assert match is not None
    return int(match[1])


def report(command: Scale) -> None:
    """Measure each size of --rows, and write JSON and page."""
    out = report_directory(command.out, command.smoke)
    out.mkdir(parents=True, exist_ok=True)
    made = provenance(command_line("scale", command))
    load = round(os.getloadavg()[0], 1)
    cache = cache_directory(command.cache, command.smoke, "scale")
    rows = [row | {"load": load} for size in command.rows for row in measure(command, size, cache)]
    text = json.dumps({"made": made, "rows": rows}, indent=1) + "\n"
    (out / FILE).write_text(text, encoding="utf-8")
    write_page(out)
