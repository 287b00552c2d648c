"""Write quality.json, quality.md and the plots from the cells of model.study.grid."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.network.config import Config
from model.study import grid
from model.study.commands import Report, cache_directory, command_line, report_directory
from model.study.merge import merge_reports
from model.study.pages import provenance, render
from model.study.plots import plot_best_of_m, plot_entropy
from model.study.summary import (
    METRICS,
    PAIRS,
    REFERENCES,
    SECTIONS,
    TABLES,
    Key,
    equal_latency,
    read_cells,
    summarise,
)  # fmt: skip
from model.study.variants import CONTROLS, IDEAS, plan_studies, select, smoke_studies

Entry = Mapping[str, Any]
TITLES = {"ranklens": "RankLens", "movielens": "MovieLens-1M (semi-synthetic)"}
VARIANTS = (
    ("Controls", "Each control is trained like EGLR except for what its name says.", CONTROLS),
    ("Ideas", "Each idea was tried to make reasoning worth more.", IDEAS),
)


def report(command: Report) -> None:
    """Fill the cache where asked to, summarise its cells, then write JSON, page and plots.

    Raises FileNotFoundError if the cache holds no finished cell, MergeError if a cell contradicts
    the report in the output directory, CheckpointError if it has another configuration.
    """
    out = report_directory(command.out, command.smoke)
    if command.page_only:
        write_page(out)
        return
    cache = cache_directory(command.cache, command.smoke, "report")
    config = Config.load(command.config)
    studies = plan_studies(command.data, command.movielens, command.seeds)
    if command.smoke:
        config, studies = config.smoke(), smoke_studies(studies)
    studies = select(studies, command.tracks, command.models)
    if not command.no_training:
        grid.fill(config, studies, cache)
    for study in studies:
        grid.check_setting(study.directory(cache), dataclasses.replace(config, seed=study.seed))
    cells = read_cells(studies, cache)
    if not cells:
        raise FileNotFoundError(f"{cache}: no finished cell to report; run without --no-training")
    summary = summarise(cells)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "quality.json"
    if path.exists() and not command.fresh:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        summary = merge_reports(earlier, summary, command.replace)
    payload = {
        "made": provenance(command_line("report", command)),
        "setting": {"budget": config.reasoning.budget},
        **summary,
    }
    path.write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    write_page(out)


def write_page(out: Path) -> None:
    """Write quality.md and the plots from the quality.json below `out`."""
    payload = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    plot_entropy(payload["positions"], SECTIONS, out / "entropy.png")
    plot_best_of_m(payload["curves"], out / "best_of_m.png")
    (out / "quality.md").write_text(page(payload), encoding="utf-8")


def page(payload: Mapping[str, Any]) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    return render(
        "quality.md.jinja",
        made=payload["made"],
        setting=payload["setting"],
        sections=sections(payload),
        reference=REFERENCES[1],
        selection=selection(payload["rows"]),
        older=older_commits(payload),
        curves=payload["curves"],
        equal_latency=equal_latency(payload["curves"]),
        positions=[entropy_row(entry) for entry in payload["positions"]],
    )


def older_commits(payload: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the commits besides the report's own that made rows of its tables, with the rows.

    The rows are models in the order of the tables; a model is listed once per commit.
    """
    commits: dict[str, dict[str, None]] = {}
    for entry in payload["tables"]:
        for commit in entry.get("commits", ()):
            if commit != payload["made"]["commit"]:
                commits.setdefault(commit, {})[entry["model"]] = None
    return [(commit, list(models)) for commit, models in commits.items()]


def sections(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Collect the tables of each data set, split and track that has a main table."""
    tables: dict[tuple[Key, str], dict[str, Entry]] = {}
    for entry in payload["tables"]:
        key = entry["dataset"], entry["split"], entry["track"]
        tables.setdefault((key, entry["title"]), {})[entry["model"]] = entry
    collected = []
    for key in (key for key in SECTIONS if (key, "main") in tables):
        main, comparisons = tables[key, "main"], comparisons_of(payload["comparisons"], key)
        dataset, split, track = key
        variants = [
            {
                "title": title,
                "text": text,
                "entries": in_order(tables[key, title], title),
                "pairs": pairs(
                    comparisons, [(v, other) for other in REFERENCES for v in overrides]
                ),
            }
            for title, text, overrides in VARIANTS
            if (key, title) in tables
        ]
        collected.append(
            {
                "heading": f"{TITLES[dataset]}, {split}, {track}",
                "lists": next(iter(main.values()))["lists"],
                "metarank": split == "metarank",
                "entries": in_order(main, "main"),
                "pairs": pairs(comparisons, PAIRS),
                "variants": variants,
            }
        )
    return collected


def in_order(entries: Mapping[str, Entry], title: str) -> list[Entry]:
    """Sort the entries of a table into the order of its models."""
    return [entries[name] for name in TABLES[title] if name in entries]


def comparisons_of(
    comparisons: Sequence[Entry], key: Key
) -> dict[tuple[str, str], dict[str, Entry]]:
    """Group the comparisons of one data set, split and track: (model, against) -> metric."""
    grouped: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in comparisons:
        if (entry["dataset"], entry["split"], entry["track"]) == key:
            pair = entry["model"], entry["against"]
            grouped.setdefault(pair, {})[entry["metric"]] = entry
    return grouped


def pairs(
    comparisons: Mapping[tuple[str, str], Mapping[str, Entry]],
    wanted: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Return one row per wanted pair that was compared: a difference per metric, and p."""
    rows = []
    for model, against in wanted:
        metrics = comparisons.get((model, against))
        if metrics:
            differences = {
                name: [metrics[name][part] for part in ("mean_difference", "low", "high")]
                for name in METRICS
            }
            p = metrics["ndcg@10"]["p"]
            rows.append({"model": model, "against": against, "p": p, **differences})
    return rows


def selection(rows: Sequence[Entry]) -> list[dict[str, Any]]:
    """Compare each variant's validation NDCG@10 with EGLR's, seed by seed, best first."""
    by_model: dict[str, dict[int, float]] = {}
    for row in rows:
        place = (row["dataset"], row["split"], row["track"])
        if row["metric"] == "validation" and place == SECTIONS[0]:
            by_model.setdefault(row["model"], {})[row["seed"]] = row["value"]
    eglr = by_model.pop(REFERENCES[1], {})
    table = []
    for model, values in by_model.items():
        shared = sorted(eglr.keys() & values.keys())
        if shared:
            difference = float(np.mean([values[seed] - eglr[seed] for seed in shared]))
            table.append((difference, model, len(shared)))
    return [
        {"model": model, "seeds": seeds, "difference": difference}
        for difference, model, seeds in sorted(table, reverse=True)
    ]


def entropy_row(entry: Entry) -> dict[str, Any]:
    """Find the position of the highest entropy and the change that reasoning makes (nats)."""
    before = np.array(entry["entropy_before"])
    change = np.array(entry["entropy_after"]) - before
    peak = int(before.argmax())
    return {
        **{name: entry[name] for name in ("dataset", "split", "track", "model")},
        "before": before.tolist(),
        "peak": peak,
        "mean_change": float(change.mean()),
        "peak_change": float(change[peak]),
        "steps": entry["steps_by_position"],
    }
