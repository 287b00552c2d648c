"""Write docs/reports/quality.md, quality.json and the plots from the cells of model.study.grid."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from model.network.config import Config
from model.study import grid
from model.study.carry import carried
from model.study.commands import Report, cache_directory, report_directory
from model.study.plots import plot_curves, plot_entropy
from model.study.summary import (
    MAIN,
    METRICS,
    OWN,
    PAIRS,
    TABLES,
    Key,
    collect,
    equal_latency,
    summarise,
)
from model.study.variants import CONTROLS, IDEAS, plan_studies, smoke_studies


def report(command: Report) -> None:
    """Fill the cache unless told to draw what it has, then write the report."""
    out = report_directory(command.out, command.smoke)
    cache = cache_directory(command.cache, command.smoke, "report")
    config = Config.load(command.config)
    studies = plan_studies(command.data, command.movielens, command.seeds)
    if command.smoke:
        config, studies = config.smoke(), smoke_studies(studies)
    if not command.no_training:
        grid.fill(config, studies, cache)
    for study in studies:
        own = dataclasses.replace(config, seed=study.seed)
        grid.check(study.directory(cache), own)
    found = collect(studies, cache)
    if not found:
        raise FileNotFoundError(f"{cache}: no finished cell to report")
    summary = summarise(found)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "quality.json"
    if path.exists() and not command.fresh:
        summary = carried(json.loads(path.read_text(encoding="utf-8")), summary)
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    plot_entropy(summary["positions"], MAIN, out / "entropy.png")
    plot_curves(summary["curves"], out / "best_of_m.png")
    (out / "quality.md").write_text(render(summary, config), encoding="utf-8")


TITLES = {"ranklens": "RankLens", "movielens": "MovieLens-1M (semi-synthetic)"}
ABOUT = """\
Mean over lists and seeds; in brackets the 95 % interval of a bootstrap over seeds and lists
together (a few seeds make it an approximation). Binary gain; NDCG@k is over the ideal of the
whole list; MAP@10 divides by min(10, positives); lists without both a like and a pass are left
out. Slates are greedy; the order of the candidates is not a feature. Epochs are chosen by
validation NDCG@10. p is of a paired t-test over lists (metrics of a list averaged over seeds
first). The rows of a table are means over the seeds that all of them have. GRPO counts the seeds in
which an epoch of it validated better than the warm start; in the others the warm start is the
model, and what changes GRPO alone changes nothing. Utility is what the evaluator that trained the
models, another one for each seed, thinks of their slates: what GRPO rewards, not what users said;
2nd is the second evaluator's opinion, by which nothing was trained. Steps are per request; s is
training time, the evaluator's included, on one core that others may have shared. Metarank's
protocol tests several lists of some users: intervals there take them for independent, and are
somewhat narrow."""


METARANK = """\
The protocol of Metarank's documentation, which prints NDCG@10 .598 for its own LambdaMART (27
features): the first 80 % of the lists with at least one like are trained on, the rest is tested."""


def render(summary: dict[str, Any], config: Config) -> str:
    """The report as Markdown; every figure from `summary`."""
    lines = [
        "# Quality",
        "",
        "Made by `make report` (`python -m model report`); the figures are in `quality.json`.",
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__.split('+')[0]}. "
        f"S = {config.reasoning.budget} unless said otherwise.",
        "",
        ABOUT.strip(),
        "",
    ]
    tables: dict[tuple[Key, str], dict[str, dict[str, Any]]] = {}
    for entry in summary["tables"]:
        place = (entry["dataset"], entry["split"], entry["track"]), entry["title"]
        tables.setdefault(place, {})[entry["model"]] = entry
    for key in MAIN:
        entries = tables.get((key, "main"))
        if not entries:
            continue
        some = next(iter(entries.values()))
        dataset, split, track = key
        lines += [f"## {TITLES[dataset]}, {split}, {track} ({some['lists']} test lists)", ""]
        if split == "metarank":
            lines += [METARANK, ""]
        lines += models_table(entries)
        lines += pairs_table(summary["comparisons"], key, PAIRS)
        for title, text, variants in (
            ("Controls", "Each is trained like EGLR but for what it names.", CONTROLS),
            ("Ideas", "What was tried to make reasoning worth more.", IDEAS),
        ):
            entries = tables.get((key, title))
            if entries:
                lines += [f"### {title}", "", text, ""]
                lines += models_table(entries, title)
                pairs = [(name, other) for other in OWN for name in variants]
                lines += pairs_table(summary["comparisons"], key, pairs)
    lines += selection_section(summary["rows"])
    lines += curves_section(summary["curves"])
    lines += entropy_section(summary["positions"])
    return "\n".join(lines)


def models_table(entries: dict[str, Any], title: str = "main") -> list[str]:
    """A line per model, in the order of its table."""
    lines = [
        "| model | seeds | NDCG@5 | NDCG@10 | MAP@10 | valid NDCG@10 | GRPO | utility | 2nd "
        "| steps | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in (name for name in TABLES[title] if name in entries):
        entry = entries[model]
        cells = [shown(entry[m]) for m in METRICS]
        cells += [f"{entry['validation'][0]:.4f}" if "validation" in entry else "-"]
        kept = round(entry["seeds"] * entry["grpo_kept"][0]) if "grpo_kept" in entry else None
        cells += ["-" if kept is None else f"{kept}/{entry['seeds']}"]
        cells += [f"{entry['utility'][0]:.4f}"]
        cells += [f"{entry['second utility']:.4f}" if "second utility" in entry else "-"]
        cells += [f"{entry['reasoning_steps'][0]:.2f}" if "reasoning_steps" in entry else "-"]
        lines.append(
            f"| {model} | {entry['seeds']} | {' | '.join(cells)} | {entry['seconds']:.0f} |"
        )
    return [*lines, ""]


def pairs_table(
    comparisons: list[dict[str, Any]], key: Key, pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """A line per paired difference."""
    lines = [
        "| paired difference | NDCG@5 | NDCG@10 | MAP@10 | p (NDCG@10) |",
        "|---|---|---|---|---|",
    ]
    for model, against in pairs:
        found = {
            c["metric"]: c
            for c in comparisons
            if (c["dataset"], c["split"], c["track"]) == key
            and (c["model"], c["against"]) == (model, against)
        }
        if found:
            values = [
                shown(tuple(found[m][part] for part in ("mean_difference", "low", "high")), True)
                for m in METRICS
            ]
            p = found["ndcg@10"]["p"]
            lines.append(f"| {model} - {against} | {' | '.join(values)} | {p:.3f} |")
    return [*lines, ""]


def selection_section(rows: list[dict[str, Any]]) -> list[str]:
    """What would be served: every trained variant's validation beside EGLR's, seed by seed."""
    served: dict[str, dict[int, float]] = {}
    for row in rows:
        place = (row["dataset"], row["split"], row["track"])
        if row["metric"] == "validation" and place == MAIN[0]:
            served.setdefault(row["model"], {})[row["seed"]] = row["value"]
    eglr = served.pop(OWN[1], {})
    shared = {model: sorted(eglr.keys() & found) for model, found in served.items()}
    table = [
        (float(np.mean([served[model][s] - eglr[s] for s in seeds])), model, len(seeds))
        for model, seeds in shared.items()
        if seeds
    ]
    lines = [
        "## Which configuration to serve",
        "",
        f"Validation NDCG@10 less that of {OWN[1]}, mean over the seeds that both have (RankLens, "
        "warm, stand-alone). No test list has a say in it.",
        "",
        "| model | seeds | difference |",
        "|---|---|---|",
        *(f"| {model} | {seeds} | {mean:+.4f} |" for mean, model, seeds in sorted(table)[::-1]),
    ]
    return [*lines, ""] if table else []


def curves_section(curves: list[dict[str, Any]]) -> list[str]:
    """Best of M: table, equal latency, plot."""
    if not curves:
        return []
    lines = [
        "## Sample M slates and let the evaluator choose (RankLens, warm, stand-alone)",
        "",
        "M = 1 is the greedy slate. Times are medians of lists asked alone, torch, one thread.",
        "",
        "| S | M | ms | NDCG@10 | utility |",
        "|---|---|---|---|---|",
        *(
            f"| {p['budget']} | {p['slates']} | {p['ms']:.1f} | {shown(p['ndcg@10'])} "
            f"| {shown(p['utility'])} |"
            for p in curves
        ),
        "",
    ]
    pair = equal_latency(curves)
    if pair is not None:
        one, best = (
            f"{p['ms']:.1f} ms, NDCG@10 {p['ndcg@10'][0]:.4f}, utility {p['utility'][0]:.4f}"
            for p in pair
        )
        lines += [
            f"In the time of EGLR's one slate ({one}) the plain host can take the best of "
            f"{pair[1]['slates']} ({best}).",
            "",
        ]
    return [*lines, "![Quality against latency](best_of_m.png)", ""]


def entropy_section(positions: list[dict[str, Any]]) -> list[str]:
    """Where the entropy is highest, and what reasoning does to it."""
    lines = [
        "## Entropy by position",
        "",
        "Is the choice most uncertain in the middle of the slate, and does reasoning lower that? "
        "Nats, means over lists and seeds; positions count from 0.",
        "",
        "| lists | model | before: first, highest (position), last | after - before: mean, at the "
        "highest | steps: first, last |",
        "|---|---|---|---|---|",
    ]
    for entry in positions:
        before = np.array(entry["entropy_before"])
        change, steps = np.array(entry["entropy_after"]) - before, entry["steps_by_position"]
        peak = int(before.argmax())
        lines.append(
            f"| {entry['dataset']}, {entry['split']}, {entry['track']} | {entry['model']} "
            f"| {before[0]:.3f}, {before[peak]:.3f} ({peak}), {before[-1]:.3f} "
            f"| {change.mean():+.3f}, {change[peak]:+.3f} | {steps[0]:.2f}, {steps[-1]:.2f} |"
        )
    return [*lines, "", "![Choice entropy and steps by position](entropy.png)", ""]


def shown(value: Sequence[float], signed: bool = False) -> str:
    """Mean with its interval."""
    form = "+.4f" if signed else ".4f"
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"
