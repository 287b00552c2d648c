"""Measure relevance against diversity of slates, and write docs/reports/diversity.md.

Every method orders the same lists: the bonus in the decoding loop of the generator, and methods
after ranking over the scores of LambdaMART and of the evaluator. Parameters and the advised weight
are chosen on validation lists; test lists are ranked with the chosen parameters only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import Dataset
from model.data.intervals import excludes_zero
from model.network.config import Config
from model.study.commands import Diversity, cache_directory, command_line, report_directory
from model.study.diversity_cells import Front, fill, fronts
from model.study.diversity_front import KEPT, choose, summarise
from model.study.diversity_metrics import METRICS
from model.study.diversity_plots import plot_fronts
from model.study.diversity_scores import Scored, Source, score, sources
from model.study.diversity_served import measure_served
from model.study.pages import provenance, render

Array = np.ndarray[Any, Any]


def report(command: Diversity) -> None:
    """Fill the cells that the cache lacks, then write JSON, page and plot."""
    out = report_directory(command.out, command.smoke)
    if not command.page_only:
        cache = cache_directory(command.cache, command.smoke, "diversity")
        if command.served_only:
            payload = json.loads((out / "diversity.json").read_text(encoding="utf-8"))
        else:
            payload = compare(command, cache)
        if command.bundle.exists() and not command.smoke:
            advice = payload["advice"][0]
            cache.mkdir(parents=True, exist_ok=True)
            payload["served"] = {
                "made": provenance(command_line("diversity", command)),
                **measure_served(command.bundle, command.data, advice, cache),
            }
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(payload, indent=1) + "\n"
        (out / "diversity.json").write_text(text, encoding="utf-8")
    write_page(out)


def compare(command: Diversity, cache: Path) -> dict[str, Any]:
    """Return the payload of the report without its served part."""
    config = Config.load(command.config)
    config = config.smoke() if command.smoke else config
    seeds = 1 if command.smoke else command.seeds
    parts: list[dict[str, Any]] = []
    for source in sources(command.data, command.movielens, command.smoke):
        parts += measure(source, config, seeds, cache / source.name)
    return {
        "made": provenance(command_line("diversity", command)),
        "kept": KEPT,
        **{name: [e for part in parts for e in part[name]] for name in ("rows", "parameters")},
        "comparisons": [entry for part in parts for entry in part["comparisons"]],
        "advice": [part["advice"] for part in parts],
        "served": None,
    }


def measure(source: Source, config: Config, seeds: int, cache: Path) -> list[dict[str, Any]]:
    """Return the summary of each attribute of a data set (diversity_front.summarise)."""
    dataset = Dataset(source.data)
    directories = [cache / str(seed) for seed in range(min(seeds, source.seeds or seeds))]
    scored = [
        score(source, dataset, dataclasses.replace(config, seed=seed), directory)
        for seed, directory in enumerate(directories)
    ]
    parts = []
    for attribute in source.attributes:
        valid = stack(scored, "valid", attribute, list(fronts()), directories)
        test = stack(scored, "test", attribute, choose(valid), directories)
        parts.append(summarise(f"{source.name}, {attribute}", valid, test))
    return parts


def stack(
    scored: Sequence[Scored],
    split: str,
    attribute: str,
    selected: Sequence[Front],
    directories: Iterable[Path],
) -> dict[Front, Array]:
    """Return METRICS of each front over seeds, [S, W, M, R], of the lists that have them all."""
    by_seed = [
        fill(of_seed, split, attribute, selected, directory)
        for of_seed, directory in zip(scored, directories, strict=True)
    ]
    stacked = {front: np.stack([cells[front] for cells in by_seed]) for front in selected}
    complete = np.all([~np.isnan(v).any(axis=(0, 1, 2)) for v in stacked.values()], axis=0)
    return {front: values[..., complete] for front, values in stacked.items()}


def write_page(out: Path) -> None:
    """Write diversity.md and the plot from the diversity.json below `out`."""
    payload = json.loads((out / "diversity.json").read_text(encoding="utf-8"))
    (out / "diversity.md").write_text(page(payload), encoding="utf-8")
    plot_fronts(payload["rows"], payload["advice"], out / "diversity.png")


def page(payload: Mapping[str, Any]) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    names = ("method", "scores", "parameters", "weight")
    for row in payload["rows"]:
        key = {name: row[name] for name in names}
        points = tables.setdefault(row["dataset"], {})
        points.setdefault(tuple(key.values()), key)[row["metric"]] = row["mean"]
    entries = ("made", "kept", "advice", "comparisons", "served", "parameters")
    return render(
        "diversity.md.jinja",
        **{key: payload[key] for key in entries},
        tables={name: list(points.values()) for name, points in tables.items()},
        verdict=verdict(payload["comparisons"]),
        metrics=METRICS,
    )


def verdict(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Say how many comparisons the loop wins and loses, with the names that it does not win."""
    lines = []
    for metric in METRICS[1:]:
        sides: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
        for entry in comparisons:
            if entry[metric] is not None:
                side = "above" if entry[metric][0] > 0 else "below"
                side = side if excludes_zero(entry[metric]) else "not told apart from"
                name = f"{entry['method']} over {entry['scores']} ({entry['dataset']})"
                sides[side].append(name)
        count = sum(map(len, sides.values()))
        lines.append(f"- **{metric}**: the loop is above {len(sides['above'])} of {count}.")
        lines += [
            f"  It is {side} {'; '.join(names)}."
            for side, names in sides.items()
            if names and side != "above"
        ]
    return "\n".join(lines)
