"""Train in the simulated environment and report the regret of each model's slates.

The report is docs/reports/world.md where a learned evaluator rewards the generators, and
world_law.md where the click model itself does.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import Dataset
from model.data.intervals import rounded
from model.learning import checkpoint
from model.network.config import Config, ConfigError
from model.network.hosts import HOSTS
from model.study.click_model import CANDIDATES, ClickModel, appeals_and_topics, prepare_simulation
from model.study.commands import World, cache_directory, command_line, report_directory
from model.study.pages import provenance, render
from model.study.plots import plot_world
from model.study.pool import run_waves
from model.study.slates import rank_greedily
from model.study.world_cells import GAP_LISTS, HEAD_START, train_cell, train_evaluator
from model.study.world_summary import read_cells, summarise

Array = np.ndarray[Any, Any]
REQUESTS = 20_000


def report(command: World) -> None:
    """Fill the cache, then write JSON, page and plot; or print the figures of one run."""
    out = report_directory(command.out, command.smoke)
    cache = cache_directory(command.cache, command.smoke, command.name)
    if command.page_only:
        write_page(out, command.name)
        return
    check_hosts(command.hosts)
    data = cache / "data"
    if command.run is not None:
        print(json.dumps(measure(command.run, data), indent=1))
        return
    config = Config.load(command.config or Path(f"model/configs/{command.name}.yaml"))
    config = miniature(config) if command.smoke else config
    if not (data / "summary.json").exists():
        prepare_simulation(data, 400 if command.smoke else REQUESTS, seed=0)
    fill(config, command, cache)
    cells = read_cells(cache, command.hosts, command.seeds)
    payload = {
        "made": provenance(command_line("world", command)),
        "setting": setting(config, command, len(Dataset(data).lists(["test"]))),
        **summarise(data, cells, command.hosts, config.slate_length),
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(payload, indent=1) + "\n"
    (out / f"{command.name}.json").write_text(text, encoding="utf-8")
    write_page(out, command.name)


def check_hosts(hosts: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no host."""
    for host in hosts:
        if host not in HOSTS:
            raise ConfigError(f"--hosts: must be one of {', '.join(HOSTS)}, got {host!r}")


def miniature(config: Config) -> Config:
    """Return the configuration with one epoch per stage and two rounds of GRPO, for tests."""
    grpo = dataclasses.replace(config.grpo, epochs=1, samples_per_epoch=2)
    stage = dataclasses.replace(config.evaluator, epochs=1)
    return dataclasses.replace(config, grpo=grpo, evaluator=stage, warm_start=stage)


def fill(config: Config, command: World, cache: Path) -> None:
    """Train every evaluator and every (host, seed) that the cache lacks, on all cores."""
    data = cache / "data"
    evaluators, cells = [], []
    for seed in range(command.seeds):
        seeded = dataclasses.replace(config, seed=seed)
        directory = None
        if command.reward == "evaluator":
            directory = cache / "evaluator" / f"seed{seed}"
            evaluators.append(functools.partial(train_evaluator, seeded, data, directory))
        for host in command.hosts:
            network = dataclasses.replace(seeded.network, host=host)
            hosted = dataclasses.replace(seeded, network=network)
            place = cache / host / f"seed{seed}"
            cells.append(functools.partial(train_cell, hosted, data, place, directory))
    run_waves([("evaluators", evaluators), ("cells", cells)])


def setting(config: Config, command: World, lists: int) -> dict[str, Any]:
    """Return what the page says of the environment and of the training, for the report's JSON."""
    return {
        "reward": command.reward,
        "seeds": command.seeds,
        "lists": lists,
        "ambiguous_lists": min(GAP_LISTS, lists),
        "candidates": CANDIDATES,
        "slate_length": config.slate_length,
        "budget": config.reasoning.budget,
        "entropy_quantile": config.reasoning.entropy_quantile,
        "training_gate": config.reasoning.training_gate,
        "lead": HEAD_START if command.reward == "law" else 1,
    }


def write_page(out: Path, name: str) -> None:
    """Write NAME.md and NAME.png from the NAME.json below `out`."""
    payload = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    plot_world(payload, out / f"{name}.png")
    (out / f"{name}.md").write_text(page(payload, name), encoding="utf-8")


def page(payload: Mapping[str, Any], name: str) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    return render("world.md.jinja", name=name, **payload)


def measure(run: Path, data: Path) -> dict[str, Any]:
    """Worth and regret of one finished run's slates, means with intervals over test lists."""
    dataset, click_model = Dataset(data), ClickModel()
    appeal, topic = appeals_and_topics(dataset, "test")
    slate, figures = rank_greedily(checkpoint.load(run), dataset.lists(["test"]))
    worth, (_, best) = (
        click_model.expected_clicks(appeal, topic, slate),
        click_model.best_slates(appeal, topic, slate.shape[1]),
    )
    return {
        "worth": rounded(worth, 6),
        "regret": rounded(1.0 - worth / best, 6),
        "reasoning_steps": round(float(figures["reasoning_steps"].mean()), 4),
        "lists": len(worth),
    }
