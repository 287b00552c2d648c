"""Write docs/reports/quality.md, quality.json and the plots from the cells of model.study.grid."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_1samp

from model.data.metrics import interval
from model.network.config import Config
from model.study import grid
from model.study.carry import carried
from model.study.commands import Report, cache_directory, report_directory
from model.study.grid import BASELINES, CONTROLS, IDEAS, NEURAL, SLATES, Study
from model.study.plots import plot_curves, plot_entropy

Array = np.ndarray[Any, Any]
METRICS = ("ndcg@5", "ndcg@10", "map@10")
FIGURES = (*METRICS, "utility", "reasoning_steps", "validation", "grpo_kept")
MAIN = [(d, s, t) for d, s, t in (
    ("ranklens", "warm", "stand-alone"), ("ranklens", "warm", "first stage"),
    ("ranklens", "cold", "stand-alone"), ("ranklens", "cold", "first stage"),
    ("ranklens", "metarank", "stand-alone"), ("movielens", "all", "first stage"),
)]  # fmt: skip
PAIRS = [
    *((f"{host} EGLR", f"{host} host") for host in ("transformer", "gru")),
    ("pointer EGLR", "pointer host"),
    ("transformer EGLR S=1", "transformer host"),
    *((f"{host} {kind}", "LambdaMART") for host in ("transformer", "gru")
      for kind in ("EGLR", "host")),
    ("transformer EGLR", "shown order"),
    ("transformer EGLR", "item like rate"),
]  # fmt: skip
OWN = ("transformer host", "transformer EGLR")  # what controls and ideas are compared with
TABLES = {
    "main": (*BASELINES, *NEURAL),
    "Controls": (*OWN, *CONTROLS),
    "Ideas": (*OWN, *IDEAS),
}
Key = tuple[str, str, str]
Cells = dict[str, list[dict[str, Array]]]  # model -> a cell per seed


def report(command: Report) -> None:
    """Fill the cache unless told to draw what it has, then write the report."""
    out = report_directory(command.out, command.smoke)
    cache = cache_directory(command.cache, command.smoke, "report")
    config = Config.load(command.config)
    studies = grid.studies(command.data, command.movielens, command.seeds)
    if command.smoke:
        config, studies = config.smoke(), grid.smoke(studies)
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


def collect(studies: Sequence[Study], cache: Path) -> dict[Key, Cells]:
    """The finished cells, by study and model, seeds in order."""
    found: dict[Key, Cells] = {}
    for study in studies:
        for model in study.models:
            path = study.directory(cache) / f"{model}.npz"
            if path.exists():
                cells = found.setdefault((study.dataset, study.split, study.track), {})
                cells.setdefault(model, []).append({"seed": study.seed, **grid.load(path)})
    return found


def summarise(found: dict[Key, Cells]) -> dict[str, list[dict[str, Any]]]:
    """Rows per seed, tables of means, paired comparisons, best-of-M curves, entropies."""
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    positions: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for key, cells in found.items():
        label = dict(zip(("dataset", "split", "track"), key, strict=True))
        for model, seeds in cells.items():
            if model == "best of M":
                curves += best_of_m(label, seeds)
            if model in ("best of M", "second evaluator"):
                continue
            for cell in seeds:
                for metric in (m for m in FIGURES if m in cell):
                    value = round(float(cell[metric].mean()), 6)
                    rows.append(
                        {**label, "model": model, "seed": int(cell["seed"]),
                         "metric": metric, "value": value}
                    )  # fmt: skip
            if model in NEURAL:
                positions.append({**label, "model": model, **by_position(seeds)})
        tables += [
            {**label, "title": title, "model": model, **entry}
            for title, models in TABLES.items()
            if cells.keys() & (set(models) - (set(OWN) if title != "main" else set()))
            for model, entry in table(cells, models).items()
        ]
        variants = [(name, other) for name in (*CONTROLS, *IDEAS) for other in OWN]
        for model, against in (*PAIRS, *variants):
            if model in cells and against in cells:
                comparisons += compared(label, cells, model, against)
    return {"rows": rows, "comparisons": comparisons, "curves": curves, "positions": positions,
            "tables": tables}  # fmt: skip


def table(cells: Cells, models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A table's rows: means with intervals over the seeds that all of its models have.

    Every seed has its own evaluator and its own luck: means over different seeds do not compare.
    """
    own = {model: {int(c["seed"]): c for c in cells[model]} for model in models if model in cells}
    shared = sorted(set.intersection(*map(set, own.values())))
    if not shared:
        return {}
    second = {int(c["seed"]): c for c in cells.get("second evaluator", ())}
    found = {}
    for model, by_seed in own.items():
        seeds = [by_seed[seed] for seed in shared]
        entry: dict[str, Any] = {
            m: [round(v, 6) for v in interval(np.array([np.atleast_1d(c[m]) for c in seeds]))]
            for m in FIGURES
            if all(m in c for c in seeds)
        }
        entry |= {"seeds": len(seeds), "lists": len(seeds[0]["ndcg@10"])}
        entry["seconds"] = round(float(np.mean([c["train_seconds"] for c in seeds])), 1)
        if all(model in second.get(seed, ()) for seed in shared):
            mean = float(np.mean([second[s][model].mean() for s in shared]))
            entry["second utility"] = round(mean, 6)
        found[model] = entry
    return found


def by_position(seeds: list[dict[str, Array]]) -> dict[str, list[float]]:
    """Means over seeds, per position: entropy before and after reasoning (nats), steps."""
    return {
        name: [round(float(v), 6) for v in np.mean([c[name] for c in seeds], axis=0)]
        for name in ("entropy_before", "entropy_after", "steps_by_position")
    }


def compared(label: dict[str, str], cells: Cells, model: str, against: str) -> list[dict[str, Any]]:
    """Paired differences on the seeds that both have, per metric."""
    other = {int(c["seed"]): c for c in cells[against]}
    pairs = [(c, other[int(c["seed"])]) for c in cells[model] if int(c["seed"]) in other]
    found = []
    for metric in METRICS if pairs else ():
        difference = np.array([mine[metric] - theirs[metric] for mine, theirs in pairs])
        mean, low, high = (round(v, 6) for v in interval(difference))
        of_lists = difference.mean(axis=0)
        constant = np.ptp(of_lists) < 1e-9  # nothing for a t-test to divide by
        p = float(mean == 0) if constant else float(ttest_1samp(of_lists, 0.0).pvalue)
        found.append(
            {**label, "model": model, "against": against, "metric": metric,
             "mean_difference": mean, "low": low, "high": high, "p": round(p, 6),
             "seeds": [round(float(d), 6) for d in difference.mean(axis=1)]}
        )  # fmt: skip
    return found


def best_of_m(label: dict[str, str], seeds: list[dict[str, Array]]) -> list[dict[str, Any]]:
    """One point per budget and M: means over seeds and lists, and the median time of a request."""
    found = []
    for budget in range(len(seeds[0]["seconds"])):
        for index, slates in enumerate(SLATES):
            means = {
                metric: interval(np.array([c[metric][budget, index] for c in seeds]))
                for metric in ("ndcg@10", "utility")
            }
            seconds = np.median([c["seconds"][budget, index] for c in seeds])
            found.append(
                {**label, "budget": budget, "slates": slates, "ms": round(1e3 * float(seconds), 3),
                 **{metric: [round(v, 6) for v in values] for metric, values in means.items()}}
            )  # fmt: skip
    return found


def equal_latency(curves: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """EGLR's one slate, and the most slates of the host that take no longer (one at least)."""
    budget = max((point["budget"] for point in curves), default=0)
    eglr = next((p for p in curves if (p["budget"], p["slates"]) == (budget, 1)), None)
    if eglr is None:
        return None
    host = [p for p in curves if p["budget"] == 0 and (p["slates"] == 1 or p["ms"] <= eglr["ms"])]
    return eglr, host[-1]


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
