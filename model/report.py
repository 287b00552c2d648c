"""Train and compare over seeds, and write docs/reports/quality.md, quality.json and the plot.

Each cell (split, seed) is a process of its own and leaves its results in the cache: a report that
was interrupted goes on where it stopped. Test labels are read once per finished model, never to
choose anything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from model import baselines, checkpoint
from model.config import Config
from model.dataset import Dataset
from model.lists import Lists
from model.metrics import interval, slate_metrics
from model.policy import Policy
from model.train import train

Array = np.ndarray[Any, Any]
METRICS = ("ndcg@5", "ndcg@10", "map@10")
BUDGETS = (0, 1, 3)
NAMES = {
    "random": "random order",
    "shown_order": "shown order",
    "item_like_rate": "item like rate",
    "lambdamart": "LambdaMART (LightGBM)",
    "host": "plain host (S = 0)",
    "eglr_s1": "EGLR (S = 1)",
    "eglr_s3": "EGLR (S = 3)",
}
COMPARISONS = (
    ("eglr_s1", "host"),
    ("eglr_s3", "host"),
    ("eglr_s3", "lambdamart"),
    ("eglr_s3", "item_like_rate"),
    ("host", "lambdamart"),
)


def neural_name(budget: int) -> str:
    """The report's name of a trained budget."""
    return f"eglr_s{budget}" if budget else "host"


def cell(config: Config, data: Path, cache: Path) -> None:
    """All models of one data set and seed; per-list test metrics into `cache`, one file each."""
    torch.set_num_threads(1)
    cache.mkdir(parents=True, exist_ok=True)
    budgets = [b for b in BUDGETS if b <= config.reasoning.budget]
    for budget in budgets:
        reasoning = dataclasses.replace(config.reasoning, budget=budget)
        start = None if budget == 0 else cache / neural_name(0)
        own = dataclasses.replace(config, reasoning=reasoning)
        train(own, data, cache / neural_name(budget), start)
    pending = [name for name in NAMES if not (cache / f"{name}.npz").exists()]
    if not pending:
        return
    dataset = Dataset(data)
    test = dataset.lists(["test"]).rankable()
    length, seed = config.slate_length, config.seed
    for name in pending:
        extra: dict[str, Array] = {}
        if name == "random":
            slate = baselines.random_order(test, length, seed)
        elif name == "shown_order":
            slate = baselines.shown_order(test, length)
        elif name == "item_like_rate":
            slate = baselines.item_like_rate(test, length, dataset)
        elif name == "lambdamart":
            slate = baselines.lambdamart(
                dataset.lists(["train"], config.train_lists).rankable(),
                dataset.lists(["valid"], config.train_lists).rankable(),
                test,
                length,
                seed,
                dataset.featuriser.vocabulary_size,
            )
        elif (cache / name).exists():
            slate, extra = neural_slates(cache / name, test)
        else:
            continue
        save(cache / f"{name}.npz", {**slate_metrics(slate, test.labels), **extra})


def neural_slates(
    directory: Path, test: Lists, keep_entropies: bool = False
) -> tuple[Array, dict[str, Array]]:
    """Greedy slates of a finished run, its steps [R] and entropies by position [K] (nats).

    `keep_entropies` adds those before reasoning of every list, [R, K].
    """
    trained = checkpoint.load(directory)
    policy = Policy(trained.config, trained.generator, trained.threshold, trained.share)
    decoded = policy.rank(test, trained.config.reasoning.budget)
    gather = {
        name: torch.cat([getattr(d, name) for d in decoded]).numpy()
        for name in ("slate", "steps", "entropy_before", "entropy_after")
    }
    more = {"entropies_before": gather["entropy_before"]} if keep_entropies else {}
    return gather["slate"], more | {
        "reasoning_steps": gather["steps"].sum(axis=1).astype(np.float64),
        "steps_by_position": gather["steps"].mean(axis=0),
        "entropy_before": gather["entropy_before"].mean(axis=0),
        "entropy_after": gather["entropy_after"].mean(axis=0),
        "threshold": np.array(trained.threshold),
        "train_seconds": np.array(trained.info["seconds"]),
    }


def save(path: Path, arrays: dict[str, Array]) -> None:
    """Write and rename, so that an interrupted cell leaves no half file."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)


def report(arguments: argparse.Namespace) -> None:
    """Fill the cache, two cells at a time, then write the report."""
    config = Config.load(arguments.config)
    if arguments.smoke:
        config = config.smoke()
    jobs = [
        (
            dataclasses.replace(config, seed=seed),
            arguments.data / split,
            arguments.cache / split / f"seed{seed}",
        )
        for seed in range(arguments.seeds)
        for split in ("warm", "cold")
    ]
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(cell, *job) for job in jobs]
        for future in tqdm(as_completed(futures), "cells", len(futures)):
            future.result()
    summary = summarise(arguments.cache, arguments.seeds, config.reasoning.budget)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: summary[key] for key in ("rows", "comparisons")}, indent=1)
    (arguments.out / "quality.json").write_text(text + "\n", encoding="utf-8")
    plot(summary["curves"], arguments.out / "entropy.png")
    (arguments.out / "quality.md").write_text(render(summary), encoding="utf-8")


def summarise(cache: Path, seeds: int, budget: int) -> dict[str, Any]:
    """Rows, paired comparisons and curves from the cached per-list metrics."""
    rows, comparisons, table, curves = [], [], [], []
    names = [n for n in NAMES if n not in [neural_name(b) for b in BUDGETS if b > budget]]
    lists = {}
    for split in ("warm", "cold"):
        found = {
            name: [
                dict(np.load(cache / split / f"seed{seed}" / f"{name}.npz"))
                for seed in range(seeds)
            ]
            for name in names
        }
        lists[split] = len(found["random"][0]["ndcg@10"])
        label = {"dataset": "ranklens", "split": split}
        for name, cells in found.items():
            metrics = [m for m in (*METRICS, "reasoning_steps") if m in cells[0]]
            for seed, values in enumerate(cells):
                for metric in metrics:
                    value = round(float(values[metric].mean()), 6)
                    rows.append(
                        {**label, "model": name, "seed": seed, "metric": metric, "value": value}
                    )
            means = {m: interval(np.mean([c[m] for c in cells], axis=0)) for m in metrics}
            table.append({**label, "model": name, **means})
            if "entropy_before" in cells[0]:
                curve = {
                    key: np.mean([c[key] for c in cells], axis=0)
                    for key in (
                        "entropy_before",
                        "entropy_after",
                        "steps_by_position",
                        "threshold",
                        "train_seconds",
                    )
                }
                curves.append({**label, "model": name, **curve})
        for name, against in COMPARISONS:
            if name not in found:
                continue
            for metric in METRICS:
                difference = np.mean(
                    [
                        a[metric] - b[metric]
                        for a, b in zip(found[name], found[against], strict=True)
                    ],
                    axis=0,
                )
                mean, low, high = (round(v, 6) for v in interval(difference))
                comparisons.append(
                    {
                        **label,
                        "model": name,
                        "against": against,
                        "metric": metric,
                        "mean_difference": mean,
                        "low": low,
                        "high": high,
                    }
                )
    return {
        "rows": rows,
        "comparisons": comparisons,
        "table": table,
        "curves": curves,
        "seeds": seeds,
        "lists": lists,
    }


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Entropy by position before and after reasoning, one panel per split."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, split in zip(axes, ("warm", "cold"), strict=True):
        for number, curve in enumerate(c for c in curves if c["split"] == split):
            positions = np.arange(len(curve["entropy_before"]))
            name, colour = NAMES[curve["model"]], f"C{number}"
            axis.plot(
                positions, curve["entropy_before"], "--", color=colour, label=f"{name}, before"
            )
            axis.plot(
                positions,
                curve["entropy_after"],
                "-o",
                color=colour,
                markersize=3,
                label=f"{name}, after",
            )
        axis.set(title=f"RankLens, {split}", xlabel="position", ylabel="choice entropy (nats)")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def render(summary: dict[str, Any]) -> str:
    """The report as Markdown; every figure from `summary`."""
    length = len(summary["curves"][0]["entropy_before"])
    lines = [
        "# Quality on RankLens",
        "",
        "Made by `make report` (`python -m model report`); the figures are in `quality.json`.",
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__.split('+')[0]}.",
        "",
        f"Seeds: {summary['seeds']}. Mean over lists and seeds, in brackets the 95 % bootstrap "
        "interval over lists (metrics of a list averaged over seeds first): it tells of other "
        "lists, not of other training seeds; `quality.json` has every seed. Binary gain; NDCG@k "
        "is over the ideal of the whole list of 24; MAP@10 divides by min(10, positives); lists "
        f"without both a like and a pass are left out. Slates are greedy, of {length} positions; "
        "the candidates' order is not a feature. Epochs are chosen by validation NDCG@10.",
        "",
    ]
    for split in ("warm", "cold"):
        lines += [
            f"## {split.capitalize()} split ({summary['lists'][split]} test lists)",
            "",
            "| model | NDCG@5 | NDCG@10 | MAP@10 | reasoning steps |",
            "|---|---|---|---|---|",
        ]
        for entry in summary["table"]:
            if entry["split"] == split:
                cells = [shown(entry[m]) if m in entry else "-" for m in METRICS]
                steps = f"{entry['reasoning_steps'][0]:.2f}" if "reasoning_steps" in entry else "-"
                lines.append(f"| {NAMES[entry['model']]} | {' | '.join(cells)} | {steps} |")
        lines += ["", "| paired difference | NDCG@5 | NDCG@10 | MAP@10 |", "|---|---|---|---|"]
        for name, against in COMPARISONS:
            found = {
                c["metric"]: (c["mean_difference"], c["low"], c["high"])
                for c in summary["comparisons"]
                if (c["split"], c["model"], c["against"]) == (split, name, against)
            }
            if found:
                cells = [shown(found[m], signed=True) for m in METRICS]
                lines.append(f"| {NAMES[name]} - {NAMES[against]} | {' | '.join(cells)} |")
        lines += ["", "Entropy by position (nats), before -> after reasoning:", ""]
        for curve in summary["curves"]:
            if curve["split"] == split:
                pairs = zip(curve["entropy_before"], curve["entropy_after"], strict=True)
                text = ", ".join(f"{a:.2f} -> {b:.2f}" for a, b in pairs)
                lines.append(
                    f"- {NAMES[curve['model']]}: {text} (threshold {curve['threshold']:.2f}; "
                    f"trained in {curve['train_seconds']:.0f} s on one core)"
                )
        lines.append("")
    lines += ["![Choice entropy by position](entropy.png)", ""]
    return "\n".join(lines)


def shown(value: tuple[float, float, float], signed: bool = False) -> str:
    """Mean with its interval."""
    form = "+.4f" if signed else ".4f"
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"
