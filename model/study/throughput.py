"""Time GRPO rounds on real batches of a real run, and name the most expensive operators."""

from __future__ import annotations

import dataclasses
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from model.learning.policy import Batch
from model.learning.stages import Stage
from model.learning.train import Run
from model.network.config import Config
from model.study.commands import Throughput

WARM_UP = 2  # rounds before the timed ones


def time_rounds(stage: Stage, rounds: int) -> tuple[list[float], list[tuple[str, float]]]:
    """Return the seconds of each round, and the five most expensive operators with their share."""
    optimizer = stage.optimizer()
    for group in optimizer.param_groups:
        group["lr"] = 1e-6
    size, lists = stage.settings.batch, stage.lists
    batches = [Batch(lists, slice(at, at + size)) for at in range(0, len(lists) - size, size)]
    seconds = []
    for number in range(WARM_UP + rounds):
        began = time.perf_counter()
        stage.update(optimizer, batches[number % len(batches)])
        seconds.append(time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        stage.update(optimizer, batches[0])
    events = profiled.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    ranked = sorted(events, key=lambda event: -event.self_cpu_time_total)
    costs = [(e.key, e.self_cpu_time_total / total) for e in ranked[:5]]
    return seconds[WARM_UP:], costs


def measure(config: Config, data: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Return requests per second [1/s] of GRPO rounds; untrained weights cost as much as trained.

    The threshold is the configured quantile of these weights' entropies, so the usual share of
    positions reasons.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as directory:
        run = Run(dataclasses.replace(config, train_lists=512), data, Path(directory), None)
        run.calibrate()
        times, costs = time_rounds(run.grpo_stage(), rounds)
    rates = sorted(config.grpo.batch / seconds for seconds in times)
    return {
        "requests_per_second": rates[len(rates) // 2],
        "low": rates[len(rates) // 10],
        "high": rates[-1 - len(rates) // 10],
        "batch": config.grpo.batch,
        "group": config.grpo.group,
        "updates": config.grpo.updates_per_sample,
        "host": config.network.host,
        "threads": threads,
        "costs": costs,
    }


def describe(figures: dict[str, Any]) -> str:
    """Format the result of `measure` as text."""
    costs = ", ".join(f"{name} {share:.0%}" for name, share in figures["costs"])
    return (
        f"GRPO, {figures['host']} host: {figures['requests_per_second']:.1f} requests/s "
        f"(10th to 90th percentile of rounds {figures['low']:.1f} to {figures['high']:.1f}); "
        f"batch {figures['batch']}, group {figures['group']}, "
        f"{figures['updates']} updates per sample, {figures['threads']} thread(s)\n"
        f"self time: {costs}\n"
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    )


def report(command: Throughput) -> None:
    """Measure with these options and print the result."""
    config = Config.load(command.config)
    if command.batch is not None:
        payload = config.to_json()
        payload["grpo"]["batch"] = command.batch
        config = Config.from_json(payload)
    print(describe(measure(config, command.data, command.threads, command.rounds)))
