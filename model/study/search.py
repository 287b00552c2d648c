"""Measure learning from search: regret to the teacher with and without reasoning, by gate.

Cells are filled seed by seed over all data sets, so that an interrupted command leaves whole seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.network.config import Config, ConfigError
from model.study.click_model import prepare_simulation
from model.study.commands import cache_directory, command_line, report_directory
from model.study.grid import load
from model.study.pages import provenance
from model.study.search_cells import EVALUATOR, OF_SLATES, Judge, fill, gate_names_of
from model.study.search_command import Search
from model.study.search_models import Source, plan_sources
from model.study.search_plots import plot_search
from model.study.search_summary import summarise

Array = np.ndarray[Any, Any]
WORLD_REQUESTS, SMOKE_REQUESTS = 10_000, 400
JSON = "search.json"


def report(command: Search) -> None:
    """Fill the missing cells, print their figures, and write JSON and plots."""
    out = report_directory(command.out, command.smoke)
    if not command.page_only:
        payload = measure(command)
        out.mkdir(parents=True, exist_ok=True)
        (out / JSON).write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    plot_search(json.loads((out / JSON).read_text(encoding="utf-8")), out)


def measure(command: Search) -> dict[str, Any]:
    """Fill the missing cells seed by seed, print their figures, and return the report's JSON.

    Raises ConfigError for an unknown model, or a configuration without `search`.
    """
    torch.set_num_threads(1)
    cache = cache_directory(command.cache, command.smoke, "search")
    world = cache / "world-data"
    sources = plan_sources(command, world)
    if any(source.data == world for source in sources) and not (world / "summary.json").exists():
        prepare_simulation(world, SMOKE_REQUESTS if command.smoke else WORLD_REQUESTS, seed=0)
    configs = {source.name: read_config(source, command.smoke) for source in sources}
    judges = {}
    if not command.finished:
        judges = {source.name: Judge.of(source, configs[source.name]) for source in sources}
    cells: dict[str, list[dict[str, dict[str, Array]]]] = {source.name: [] for source in sources}
    for seed in range(command.seeds):
        for source in sources:
            directory = cache / source.name / f"seed{seed}"
            if command.finished:
                of_seed = read_finished(source, directory)
            else:
                of_seed = fill(source, configs[source.name], seed, directory, judges[source.name])
            if of_seed:
                cells[source.name].append(of_seed)
            print_figures(source, seed, of_seed)
    datasets = [summarise(s, cells[s.name]) for s in sources if cells[s.name]]
    every = [cell for name in cells for of_seed in cells[name] for cell in of_seed.values()]
    return {
        "made": provenance(command_line("search", command)),
        "commits": sorted({str(cell["commit"]) for cell in every}),
        "core_seconds": round(sum(float(cell["seconds"]) for cell in every), 1),
        "datasets": datasets,
        "setting": {name: describe(config) for name, config in configs.items()},
    }


def read_config(source: Source, smoke: bool) -> Config:
    """Read the configuration of a source. Raises ConfigError where it has no `search`."""
    config = Config.load(source.config)
    if config.search is None:
        raise ConfigError(f"{source.config}: search: required by this command, but missing")
    return config.smoke() if smoke else config


def read_finished(source: Source, directory: Path) -> dict[str, dict[str, Array]]:
    """Return the cells of a seed that exist."""
    paths = {name: directory / f"{name}.npz" for name in (EVALUATOR, *source.models)}
    return {name: load(path) for name, path in paths.items() if path.exists()}


def describe(config: Config) -> dict[str, Any]:
    """Return the fields of a configuration that the page names."""
    payload = config.to_json()
    names = ("slate_length", "train_lists", "objectives", "search", "network", "reasoning")
    return {name: payload[name] for name in names}


def print_figures(source: Source, seed: int, of_seed: Mapping[str, Mapping[str, Array]]) -> None:
    """Print the mean figures of every model and gate of a seed, a JSON line each."""
    for model in (name for name in source.models if name in of_seed):
        cell = of_seed[model]
        for gate in gate_names_of(model):
            means = {name: round(float(cell[f"{gate} {name}"].mean()), 6) for name in OF_SLATES}
            label = {"dataset": source.name, "seed": seed, "model": model, "gate": gate}
            print(json.dumps({**label, **means}), flush=True)
