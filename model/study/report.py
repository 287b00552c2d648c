"""Write quality.json, quality.md and the plots from the cells of model.study.grid."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import Dataset
from model.network.config import Config
from model.study import budget, grid
from model.study.commands import cache_directory, command_line, report_directory
from model.study.merge import MergeError, check_cells, merge_reports
from model.study.pages import provenance, render
from model.study.plots import plot_entropy
from model.study.report_command import Report
from model.study.search import measure
from model.study.search_command import Search
from model.study.search_plots import plot_search
from model.study.search_section import section
from model.study.summary import (
    METRICS,
    MODELS,
    PAIRS,
    SECTIONS,
    Key,
    read_cells,
    summarise,
)
from model.study.variants import Study, plan_studies, select, smoke_studies
from service.engine.session import Session

Entry = Mapping[str, Any]
TITLES = {"ranklens": "RankLens", "movielens": "MovieLens-1M (semi-synthetic)"}


def report(command: Report) -> None:
    """Fill the cache where asked to, summarise its cells, then write JSON, page and plots.

    Raises FileNotFoundError if the cache holds no finished cell, MergeError if a cell contradicts
    the report in the output directory, CheckpointError if it has another configuration.
    """
    out = report_directory(command.out, command.smoke)
    if command.page_only:
        write_page(out)
        return
    path = out / "quality.json"
    if command.check and not path.exists():
        raise MergeError(f"{path}: no report to compare with; run without --check")
    config, summary = summarised(command)
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if command.check:
        names = check_cells(earlier, summary["cells"])
        print(*(f"equal to {path}: {name}" for name in names), sep="\n")
        return
    if earlier and not command.fresh:
        summary = merge_reports(earlier, summary, command.replace)
    payload = {
        "made": provenance(command_line("report", command)),
        "setting": {"budget": config.reasoning.budget},
        **summary,
        **other_parts(command, earlier),
    }
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    write_page(out)


def summarised(command: Report) -> tuple[Config, dict[str, list[dict[str, Any]]]]:
    """Fill the cache where asked to, and return the configuration and the summary of its cells."""
    cache = cache_directory(command.cache, command.smoke, "report")
    config = Config.load(command.config)
    studies: list[Study] = plan_studies(command.data, command.movielens, command.seeds)
    if command.smoke:
        config, studies = config.smoke(), smoke_studies(studies)
    studies = select(studies, command.tracks, command.models, command.only_seeds)
    if not command.no_training:
        grid.fill(config, studies, cache)
    for study in studies:
        grid.check_setting(study.directory(cache), dataclasses.replace(config, seed=study.seed))
    cells = read_cells(studies, cache)
    if not cells:
        raise FileNotFoundError(f"{cache}: no finished cell to report; run without --no-training")
    return config, summarise(cells)


def other_parts(command: Report, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of learning from search, and of the served bundle.

    A run that is restricted to some cells keeps those of the earlier report. One that trains
    nothing takes learning from search from the search.json in --out, if there is one.
    """
    parts = {name: earlier[name] for name in ("served", "search") if name in earlier}
    if command.tracks or command.models or command.only_seeds:
        return parts
    warm = command.data / "warm"
    written = report_directory(command.out, command.smoke) / "search.json"
    if not command.no_training:
        cache = None if command.cache is None else command.cache / "search"
        parts["search"] = measure(
            Search(warm, command.movielens, cache=cache, seeds=command.seeds, smoke=command.smoke)
        )
    elif written.exists():
        parts["search"] = json.loads(written.read_text(encoding="utf-8"))
    if command.bundle.exists():
        parts["served"] = {
            "bundle": f"{command.bundle.parent.name}/{command.bundle.name}",
            **budget.measure(Session.load(command.bundle), Dataset(warm)),
        }
    return parts


def write_page(out: Path) -> None:
    """Write quality.md and the plots from the quality.json below `out`."""
    payload = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    plot_entropy(payload["positions"], SECTIONS, out / "entropy.png")
    if "search" in payload:
        plot_search(payload["search"], out)
    (out / "quality.md").write_text(page(payload), encoding="utf-8")


def page(payload: Mapping[str, Any]) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    search = payload.get("search")
    seconds = [
        sum(cell["cpu_seconds"] for cell in payload["cells"]),
        search["core_seconds"] if search else 0.0,
    ]
    return render(
        "quality.md.jinja",
        made=payload["made"],
        setting=payload["setting"],
        sections=sections(payload),
        older=older_commits(payload),
        served=served(payload["served"]) if "served" in payload else None,
        search=section(search) if search else None,
        positions=[entropy_row(entry) for entry in payload["positions"]],
        hours=[value / 3600 for value in (*seconds, sum(seconds))],
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
    """Collect the table and the paired differences of each data set, split and track."""
    tables: dict[Key, dict[str, Entry]] = {}
    for entry in payload["tables"]:
        key = entry["dataset"], entry["split"], entry["track"]
        tables.setdefault(key, {})[entry["model"]] = entry
    collected = []
    for key in (key for key in SECTIONS if key in tables):
        dataset, split, track = key
        entries = [tables[key][name] for name in MODELS if name in tables[key]]
        collected.append(
            {
                "heading": f"{TITLES[dataset]}, {split}, {track}",
                "lists": entries[0]["lists"],
                "entries": entries,
                "pairs": pairs(comparisons_of(payload["comparisons"], key), PAIRS),
            }
        )
    return collected


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


def served(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the served bundle without a step, as it is served, and with every step."""
    behind, always = (
        sorted((row for row in figures["rows"] if row["gate"] == gate), key=lambda r: r["budget"])
        for gate in budget.GATES
    )
    rows = {
        "no step": behind[0],
        "gate of the bundle": behind[-1],
        "every step": always[-1],
    }
    return {**figures, "rows": [{**row, "name": name} for name, row in rows.items()]}


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
