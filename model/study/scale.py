"""Measure memory and speed on logs of any size and write docs/reports/scale.md.

A random log is written, featurised and used for some batches of training, each phase in a process
of its own so that its peak memory is its own. The trained weights are thrown away.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.chunks import ROWS_PER_CHUNK
from model.data.dataset import LISTS_PER_BLOCK, MEMORY_LIMIT, Dataset
from model.data.workers import begin_worker
from model.learning.policy import Batch
from model.learning.train import Run
from model.network.config import Config
from model.study.commands import Scale, cache_directory, command_line, report_directory
from model.study.pages import provenance, render
from model.study.random_log import CANDIDATES, LISTS_PER_USER, write_log

BATCHES = 40  # per stage
SETTING = {
    "candidates": CANDIDATES,
    "lists_per_user": LISTS_PER_USER,
    "batches": BATCHES,
    "rows_at_once": ROWS_PER_CHUNK,
    "block": LISTS_PER_BLOCK,
    "memory_mib": MEMORY_LIMIT >> 20,
}


def featurise(directory: Path) -> None:
    """Fit the schema and build the arrays of the train and valid splits."""
    dataset = Dataset(directory)
    dataset.lists(["train"])
    dataset.lists(["valid"])


def train_briefly(config: Config, data: Path, directory: Path) -> dict[str, float]:
    """Return rows per second [1/s] of each stage, over some batches of shuffled lists."""
    run = Run(config, data, directory, None)
    run.calibrate()
    rates = {}
    for describe in (run.evaluator_stage, run.warm_start_stage, run.grpo_stage):
        stage = describe()
        size, lists = stage.settings.batch, stage.lists
        optimizer = stage.optimizer()
        order = np.random.default_rng(0).permutation(len(lists))
        began = time.perf_counter()
        for step in range(BATCHES):
            rows = range(step * size, (step + 1) * size)
            stage.update(optimizer, Batch(lists, np.take(order, rows, mode="wrap"), run.device))
        rates[stage.name] = BATCHES * size * CANDIDATES / (time.perf_counter() - began)
    return rates


def measure_phase(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a task in this process; return result, seconds and peak resident memory in MB."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    result = task(*arguments)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # ru_maxrss is in KiB on Linux
    return {"result": result, "seconds": seconds, "peak": peak}


def in_process(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Measure a task in a new process. It is spawned, because polars deadlocks after a fork."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=begin_worker) as pool:
        return pool.submit(measure_phase, task, *arguments).result()


def measure(config: Config, rows: int, scratch: Path) -> dict[str, Any]:
    """Measure all phases for a log of `rows` rows; `scratch` is left empty."""
    directory = scratch / f"rows-{rows}"
    shutil.rmtree(directory, ignore_errors=True)
    data = directory / "log"
    try:
        figures = {
            "rows": rows,
            "write": in_process(write_log, data, rows),
            "featurise": in_process(featurise, data),
            "train": in_process(train_briefly, config, data, directory / "run"),
            "log_bytes": (data / "impressions.parquet").stat().st_size,
            "array_bytes": sum(f.stat().st_size for f in directory.rglob("*.npy")),
        }
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return figures


def report(command: Scale) -> None:
    """Measure each size, and write JSON and page after each."""
    out = report_directory(command.out, command.smoke)
    if command.page_only:
        write_page(out)
        return
    cache = cache_directory(command.cache, command.smoke, "scale")
    config = Config.load(command.config)
    config = config.smoke() if command.smoke else config
    out.mkdir(parents=True, exist_ok=True)
    made = provenance(command_line("scale", command))
    sizes = []
    for rows in command.rows:
        sizes.append({**measure(config, rows, cache), "made": made, "setting": SETTING})
        text = json.dumps(sizes, indent=1) + "\n"
        (out / "scale.json").write_text(text, encoding="utf-8")
        write_page(out)


def write_page(out: Path) -> None:
    """Write scale.md from the scale.json below `out`."""
    sizes = json.loads((out / "scale.json").read_text(encoding="utf-8"))
    (out / "scale.md").write_text(page(sizes), encoding="utf-8")


def page(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Render the report as Markdown; every figure comes from `sizes`, the JSON."""
    return render("scale.md.jinja", sizes=sizes)
