"""Train in the known world and report how far each slate is from the best: docs/reports/world.md.

Generators are rewarded by a learned evaluator, or by the law itself (docs/reports/world_law.md).
Resumable: each (host, seed) leaves its results in the cache.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from model.data.dataset import Dataset
from model.data.metrics import interval
from model.learning import checkpoint
from model.network.config import Config
from model.study.baselines import random_order
from model.study.commands import World, cache_directory, report_directory
from model.study.pool import run_waves
from model.study.report import shown
from model.study.slates import neural_slates
from model.study.world import CANDIDATES, Law, prepare_world, truth
from model.study.world_cells import AMBIGUOUS, LEAD, QUANTILES, cell, evaluator

Array = np.ndarray[Any, Any]
REQUESTS = 20_000


def measured(run: Path, data: Path) -> dict[str, Any]:
    """Worth and regret of one finished run's slates, means with intervals over test lists."""
    dataset, law = Dataset(data), Law()
    appeal, topic = truth(dataset, "test")
    slate, found = neural_slates(checkpoint.load(run), dataset.lists(["test"]))
    worth, (_, best) = law.worth(appeal, topic, slate), law.best(appeal, topic, slate.shape[1])
    steps = round(float(found["reasoning_steps"].mean()), 4)
    values = {"worth": worth, "regret": 1.0 - worth / best}
    intervals = {n: [round(v, 6) for v in interval(a[None])] for n, a in values.items()}
    return {**intervals, "reasoning_steps": steps, "lists": len(worth)}


def report(command: World) -> None:
    """Fill the cache, then write Markdown, JSON and plot, or measure one run.

    They are named world, or world_law where the law rewards.
    """
    out = report_directory(command.out, command.smoke)
    cache = cache_directory(command.cache, command.smoke, command.name)
    if command.run is not None:
        print(json.dumps(measured(command.run, cache / "data"), indent=1))
        return
    config = Config.load(command.config or Path(f"model/configs/{command.name}.yaml"))
    requests = REQUESTS
    if command.smoke:
        small = dataclasses.replace(config.grpo, epochs=1, samples_per_epoch=2)
        stage = dataclasses.replace(config.evaluator, epochs=1)
        config = dataclasses.replace(config, grpo=small, evaluator=stage, warm_start=stage)
        requests = 400
    data = cache / "data"
    if not (data / "summary.json").exists():
        prepare_world(data, requests, seed=0)
    evaluators, cells = [], []
    for seed in range(command.seeds):
        own = dataclasses.replace(config, seed=seed)
        judge = None
        if command.reward == "evaluator":
            judge = cache / "evaluator" / f"seed{seed}"
            evaluators.append(functools.partial(evaluator, own, data, judge))
        for host in command.hosts:
            hosted = dataclasses.replace(own, network=dataclasses.replace(own.network, host=host))
            place = cache / host / f"seed{seed}"
            cells.append(functools.partial(cell, hosted, data, place, judge))
    run_waves([("evaluators", evaluators), ("cells", cells)])
    hosts, seeds = command.hosts, command.seeds
    summary = summarise(data, cache, hosts, seeds, config.slate_length)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: summary[k] for k in ("rows", "comparisons", "gates")}, indent=1)
    name = command.name
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    plot(summary, out / f"{name}.png")
    markdown = render(summary, config, name)
    (out / f"{name}.md").write_text(markdown, encoding="utf-8")


def summarise(
    data: Path, cache: Path, hosts: Sequence[str], seeds: int, length: int
) -> dict[str, Any]:
    """Rows, paired comparisons and entropies from the cached cells and the law itself."""
    dataset, law = Dataset(data), Law()
    appeal, topic = truth(dataset, "test")
    test = dataset.lists(["test"])
    _, best = law.best(appeal, topic, length)
    fixed = {
        "best of all": best,
        "sort by appeal": law.worth(appeal, topic, np.argsort(-appeal, axis=1)[:, :length]),
        "random order": law.worth(appeal, topic, random_order(test, length, 0)),
    }
    cells = {
        (host, name): [
            dict(np.load(cache / host / f"seed{s}" / f"{name}.npz")) for s in range(seeds)
        ]
        for host in hosts
        for name in ("host", "eglr")
    }
    worth = {f"{host} {name}": [c["worth"] for c in found] for (host, name), found in cells.items()}
    rows, table = [], []
    for model, values in {**{k: [v] for k, v in fixed.items()}, **worth}.items():
        regrets = [1.0 - v / best for v in values]
        for seed, (value, regret) in enumerate(zip(values, regrets, strict=True)):
            for metric, found in (("worth", value), ("regret", regret)):
                rows.append({"dataset": "world", "split": "test", "model": model, "seed": seed,
                             "metric": metric, "value": round(float(found.mean()), 6)})  # fmt: skip
        table.append((model, interval(np.array(values)), interval(np.array(regrets))))
    comparisons, gates = [], []
    for host in hosts:
        mine = {model: np.array(worth[f"{host} {model}"]) for model in ("eglr", "host")}
        eglr = cells[host, "eglr"]
        behind = np.array([c["gate_worth"] for c in eglr])  # [seeds, Q, R]
        steps = np.mean([c["gate_steps"] for c in eglr], axis=0)
        for quantile, worths, taken in zip(QUANTILES, behind.swapaxes(0, 1), steps, strict=True):
            gain = [round(v, 6) for v in interval(worths - mine["host"])]
            regret = round(float((1.0 - worths / best).mean()), 6)
            gates.append({"host": host, "quantile": quantile, "steps": round(float(taken), 4),
                          "regret": regret, "gain": gain})  # fmt: skip
        mine["eglr, every step"] = behind[:, 0]
        for model, against in (("eglr", "host"), ("eglr, every step", "host"), ("eglr", None),
                               ("host", None)):  # fmt: skip
            other = mine[against] if against else fixed["sort by appeal"]
            difference = mine[model] - other
            mean, low, high = (round(v, 6) for v in interval(difference))
            comparisons.append(
                {"dataset": "world", "split": "test", "model": f"{host} {model}",
                 "against": f"{host} {against}" if against else "sort by appeal", "metric": "worth",
                 "mean_difference": mean, "low": low, "high": high,
                 "seeds": [round(float(d), 6) for d in difference.mean(axis=1)]}
            )  # fmt: skip
    return {"rows": rows, "comparisons": comparisons, "gates": gates, "table": table,
            "cells": cells, "hosts": hosts, "seeds": seeds, "lists": len(test)}  # fmt: skip


def ambiguity(found: list[dict[str, Array]]) -> list[float]:
    """Per seed Spearman's correlation of entropy before reasoning with the gap's smallness."""
    return [float(spearmanr(c["entropies_before"].ravel(), -c["gap"].ravel())[0]) for c in found]


def plot(summary: dict[str, Any], path: Path) -> None:
    """Regret by model, entropy against ambiguity, and regret against the steps that are taken."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right, cost) = pyplot.subplots(1, 3, figsize=(16, 4), layout="constrained")
    shown_rows = [row for row in summary["table"] if row[0] not in ("best of all", "random order")]
    means = [row[2][0] for row in shown_rows]
    spread = [[m - row[2][1] for m, row in zip(means, shown_rows, strict=True)],
              [row[2][2] - m for m, row in zip(means, shown_rows, strict=True)]]  # fmt: skip
    left.barh([row[0] for row in shown_rows], means, xerr=spread)
    left.set(xlabel="regret to the best slate (share)", title="Known world, test lists")
    for (host, name), found in summary["cells"].items():
        gap = np.concatenate([c["gap"].ravel() for c in found])
        entropy = np.concatenate([c["entropies_before"].ravel() for c in found])
        edges = np.quantile(gap, np.linspace(0, 1, 11))
        which = np.clip(np.searchsorted(edges, gap) - 1, 0, 9)
        centre = [gap[which == b].mean() for b in range(10)]
        right.plot(centre, [entropy[which == b].mean() for b in range(10)], "-o",
                   markersize=3, label=f"{host} {name}")  # fmt: skip
    right.set(xlabel="gap between best and second-best item (expected clicks)",
              ylabel="choice entropy before reasoning (nats)", title="Ambiguity")  # fmt: skip
    right.legend(fontsize=7)
    regret = {row[0]: row[2][0] for row in summary["table"]}
    for number, host in enumerate(summary["hosts"]):
        points = [point for point in summary["gates"] if point["host"] == host]
        cost.plot([p["steps"] for p in points], [p["regret"] for p in points], "-o",
                  color=f"C{number}", markersize=3, label=f"{host} eglr")  # fmt: skip
        cost.axhline(regret[f"{host} host"], color=f"C{number}", linestyle="--")
    cost.set(xlabel="reasoning steps per slate", ylabel="regret",
             title="EGLR behind other thresholds; dashed: its plain host")  # fmt: skip
    cost.legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def render(summary: dict[str, Any], config: Config, name: str) -> str:
    """The report as Markdown."""
    by_law = name == "world_law"
    reward = (
        "Generators were rewarded by the law itself, its expected clicks, and epochs selected by "
        "it: no evaluator is learned, so no error of one is in these figures, and no real data "
        f"offers such a reward. The plain host learned {LEAD} times the rounds of what followed. "
        "[world.md](world.md) has wider hosts and shorter slates with a learned evaluator."
        if by_law
        else "Generators were rewarded by an evaluator learned from the world's clicks."
    )
    lines = [
        "# A world with known truth" + ", rewarded by the law itself" * by_law,
        "",
        f"Made by `python -m model world{' --reward law' * by_law} --hosts "
        f"{' '.join(summary['hosts'])}`; the law of clicks is in "
        f"`model/study/world.py`, the figures are in `{name}.json`. "
        "No number here is of real data.",
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__.split('+')[0]}.",
        "",
        reward,
        "",
        f"{summary['lists']} test lists of {CANDIDATES}, slates of {config.slate_length}; seeds: "
        f"{summary['seeds']}. Worth is the expected clicks of the slate under the law; regret is "
        "1 - worth / best, where the best is found by trying all slates. In brackets the 95 % "
        "interval of a bootstrap over seeds and lists together. Of each seed one plain host is "
        "trained to the end; `host` went on from there as it was, `eglr` with reasoning plugged "
        "in, through the same rounds of GRPO. Its gate is the entropy's "
        f"{config.reasoning.entropy_quantile:.0%} quantile; while it learns, it decides as "
        f"`training_gate: {config.reasoning.training_gate}` says (docs/model.md).",
        "",
        "| model | worth | regret |",
        "|---|---|---|",
        *(f"| {model} | {shown(value)} | {shown(regret)} |"
          for model, value, regret in summary["table"]),
        "",
        "| paired difference | worth | each seed |",
        "|---|---|---|",
        *(
            f"| {c['model']} - {c['against']} | "
            f"{shown((c['mean_difference'], c['low'], c['high']), signed=True)} | "
            f"{', '.join(f'{d:+.4f}' for d in c['seeds'])} |"
            for c in summary["comparisons"]
        ),
        "",
        "Is entropy high where the truth is ambiguous? Spearman's correlation, per seed, of the "
        "entropy of a choice with the smallness of the gap between the best and the second-best "
        f"next item (each followed by its best continuation), on the first {AMBIGUOUS} lists:",
        "",
    ]  # fmt: skip
    for (host, model), found in summary["cells"].items():
        steps = np.mean([c["reasoning_steps"].mean() for c in found])
        by_seed = ", ".join(f"{value:.2f}" for value in ambiguity(found))
        lines.append(f"- {host} {model}: {by_seed} ({steps:.2f} reasoning steps per slate)")
    lines += [
        "",
        "What the gate saves: the weights of EGLR behind other thresholds, each a quantile of the "
        "entropies on validation lists without reasoning. Quantile 0 takes every step, 1 none. "
        "Gain is the paired difference in worth to the plain host.",
        "",
        "| host | quantile | steps per slate | regret | gain |",
        "|---|---|---|---|---|",
        *(
            f"| {p['host']} | {p['quantile']:.1f} | {p['steps']:.2f} | {p['regret']:.4f} "
            f"| {shown(p['gain'], signed=True)} |"
            for p in summary["gates"]
        ),
        "",
        f"![Regret, ambiguity, and gain against cost]({name}.png)",
        "",
    ]
    return "\n".join(lines)
