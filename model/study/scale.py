"""Memory and speed on logs of any size: `python -m model scale` writes docs/reports/scale.md.

A drawn log is written, featurised and trained on for some batches, each in a process of its own,
so that the peak memory is that phase's. Nothing learned here is worth anything.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from model.data.chunks import ROWS_PER_CHUNK
from model.data.dataset import LISTS_PER_BLOCK, MEMORY_LIMIT, Dataset
from model.learning.policy import Batch
from model.learning.train import Run
from model.network.config import Config
from model.study.commands import Scale, cache_directory, report_directory
from model.study.random_log import CANDIDATES, LISTS_PER_USER, write_log

BATCHES = 40  # trained on in each stage


def featurise(directory: Path) -> None:
    """Fit the schema and build the arrays that training asks for."""
    dataset = Dataset(directory)
    dataset.lists(["train"])
    dataset.lists(["valid"])


def train_briefly(config: Config, data: Path, directory: Path) -> dict[str, float]:
    """Rows [1/s] of each stage, over some batches after a shuffle of all lists."""
    run = Run(config, data, directory, None)
    run.calibrate()
    rates = {}
    for describe in (run.evaluator_stage, run.warm_start_stage, run.grpo_stage):
        stage = describe()
        size, lists = stage.settings.batch, stage.lists
        optimizer = torch.optim.AdamW(stage.module.parameters(), lr=1e-4)
        order = np.random.default_rng(0).permutation(len(lists))
        began = time.perf_counter()
        for step in range(BATCHES):
            rows = range(step * size, (step + 1) * size)
            stage.update(optimizer, Batch(lists, np.take(order, rows, mode="wrap"), run.device))
        rates[stage.name] = BATCHES * size * CANDIDATES / (time.perf_counter() - began)
    return rates


def phase(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a task in this process: its result, seconds and peak resident memory in MB."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    result = task(*arguments)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    return {"result": result, "seconds": seconds, "peak": peak}


def apart(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """The same in a fresh process; spawned, because polars and a fork deadlock."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(phase, task, *arguments).result()


def measure(config: Config, rows: int, scratch: Path) -> dict[str, Any]:
    """All phases for a log of `rows` rows, in `scratch`, which is emptied of it afterwards."""
    directory = scratch / f"rows-{rows}"
    shutil.rmtree(directory, ignore_errors=True)
    data = directory / "log"
    try:
        found = {
            "rows": rows,
            "write": apart(write_log, data, rows),
            "featurise": apart(featurise, data),
            "train": apart(train_briefly, config, data, directory / "run"),
            "log_bytes": (data / "impressions.parquet").stat().st_size,
            "array_bytes": sum(f.stat().st_size for f in directory.rglob("*.npy")),
        }
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return found


def text(found: list[dict[str, Any]]) -> str:
    """The report."""
    lines = [
        "# Training on logs larger than memory",
        "",
        f"Written by `python -m model scale --rows {' '.join(str(f['rows']) for f in found)}`: "
        f"drawn lists of {CANDIDATES}, by users of {LISTS_PER_USER} lists that lie far apart in "
        "the file. Each phase has a process and one thread of its own. Peak is the largest "
        "resident memory of that process.",
        "",
        "| rows | log | arrays | write: rows/s, peak | featurise: rows/s, peak | train: peak |",
        "|---|---|---|---|---|---|",
    ]
    for f in found:
        speed = {name: f["rows"] / f[name]["seconds"] for name in ("write", "featurise")}
        lines.append(
            f"| {f['rows']:,} | {f['log_bytes'] / 1e6:,.0f} MB | {f['array_bytes'] / 1e6:,.0f} MB "
            f"| {speed['write']:,.0f}, {f['write']['peak']:,.0f} MB "
            f"| {speed['featurise']:,.0f}, {f['featurise']['peak']:,.0f} MB "
            f"| {f['train']['peak']:,.0f} MB |"
        )
    lines += [
        "",
        f"Rows per second of training, over {BATCHES} batches from a shuffle of all lists:",
        "",
        "| rows | evaluator | warm start | GRPO |",
        "|---|---|---|---|",
    ]
    for f in found:
        rates = f["train"]["result"]
        shown = (f"{rates[stage]:,.0f}" for stage in ("evaluator", "warm_start", "grpo"))
        lines.append(f"| {f['rows']:,} | {' | '.join(shown)} |")
    lines += [
        "",
        f"The log is read {ROWS_PER_CHUNK:,} rows at a time, once for each such part, since a "
        f"user's rows may lie anywhere; {LISTS_PER_BLOCK:,} lists are featurised before they are "
        f"written. Arrays beyond {MEMORY_LIMIT >> 20} MiB lie in files, and a batch reads its own "
        "rows of them. Items and users are in memory; so are 8 bytes for each list, the shuffle's.",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, polars {pl.__version__}, "
        f"numpy {np.__version__}; {platform.machine()}, {os.cpu_count()} cores, "
        f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB.",
        "",
    ]
    return "\n".join(lines)


def report(command: Scale) -> None:
    """Measure each size and write scale.json and scale.md."""
    config = Config.load(command.config)
    config = config.smoke() if command.smoke else config
    out = report_directory(command.out, command.smoke)
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for rows in command.rows:
        found.append(measure(config, rows, cache_directory(command.cache, command.smoke, "scale")))
        payload = json.dumps(found, indent=1) + "\n"
        (out / "scale.json").write_text(payload, encoding="utf-8")
        (out / "scale.md").write_text(text(found), encoding="utf-8")
