"""Compare the re-ranker with LambdaMART on a graded log and write docs/reports/graded.md.

Both rank the same lists with the same features and are selected by graded NDCG@10 on the same
validation queries, which are train queries. Test labels select nothing.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from model.data.dataset import Dataset
from model.data.intervals import rounded
from model.data.lists import Lists
from model.data.metrics import slate_metrics
from model.data.prepare import prepare_impressions
from model.learning.train import Run
from model.network.config import Config
from model.study import baselines
from model.study.commands import Graded, cache_directory, command_line, report_directory
from model.study.first_stage import first_stage, is_made_from
from model.study.graded_log import draw_lists, read_example, write_log
from model.study.grid import load, record_setting, save
from model.study.pages import provenance, render
from model.study.variants import Overrides

Array = np.ndarray[Any, Any]
RANDOM, LAMBDAMART, EGLR, WARM, BINARY, BEHIND = (
    "random order", "LambdaMART", "EGLR", "EGLR before GRPO", "EGLR, gains of 0 and 1",
    "EGLR behind a first stage",
)  # fmt: skip
# Attempts to rank better, each a change of the configuration alone. BEHIND changes the data: it
# adds LambdaMART's score, out of fold in train lists, as one more number (model.study.first_stage).
IDEAS: dict[str, Overrides] = {
    "no input dropout": {"network": {"input_dropout": 0.0}},
    "dropout 0.4, weight decay 0.5": {
        "network": {"dropout": 0.4},
        "evaluator": {"weight_decay": 0.5},
        "warm_start": {"weight_decay": 0.5},
    },
    "five epochs of GRPO at rate 3e-4": {"grpo": {"epochs": 5, "learning_rate": 3e-4}},
}
METRICS = ("graded ndcg@10", "graded ndcg@5", "ndcg@10")
HEADLINE = METRICS[0]
Cell = dict[str, Array]


def report(command: Graded) -> None:
    """Fill the cells that the cache lacks, then write JSON and page."""
    out = report_directory(command.out, command.smoke)
    if not command.page_only:
        torch.set_num_threads(1)
        cache = cache_directory(command.cache, command.smoke, "graded")
        config = Config.load(command.config)
        seeds = range(1 if command.smoke else command.seeds)
        data = prepare(command, cache)
        ideas = [next(iter(IDEAS))] if command.smoke else [BEHIND, *IDEAS]
        config = config.smoke() if command.smoke else config
        cells = fill(config, [RANDOM, LAMBDAMART, WARM, EGLR, BINARY, *ideas], data, cache, seeds)
        log = "LightGBM's ranking example" if command.data else f"drawn with seed {command.draw}"
        payload = {
            "made": provenance(command_line("graded", command)),
            "log": {"source": log, **describe(data["graded"])},
            **summarise(cells),
        }
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(payload, indent=1) + "\n"
        (out / "graded.json").write_text(text, encoding="utf-8")
    write_page(out)


def prepare(command: Graded, cache: Path) -> dict[str, Dataset]:
    """Write the log and its data sets: graded, and binary with the same positives."""
    if command.data is not None:
        train, test = read_example(command.data)
    elif command.smoke:
        train, test = draw_lists(command.draw, 40, 30, 12)
    else:
        train, test = draw_lists(command.draw)
    log, schema = write_log(cache / "log", train, test)
    payload = yaml.safe_load(schema.read_text(encoding="utf-8"))
    datasets = {}
    for name in ("graded", "binary"):
        gain = {} if name == "graded" else {"gain": "binary"}
        text = yaml.safe_dump({**payload, "label": {**payload["label"], **gain}}, sort_keys=False)
        schema.write_text(text, encoding="utf-8")
        prepare_impressions(log, schema, cache / name)
        datasets[name] = Dataset(cache / name)
    return datasets


def describe(dataset: Dataset) -> dict[str, Any]:
    """Count queries and rows of each split, features, and the share of each grade."""
    summary = json.loads((dataset.directory / "summary.json").read_text(encoding="utf-8"))
    labels = dataset.rows.select("label").collect()["label"].to_numpy()
    grades = np.rint(labels * dataset.featuriser.schema.label.span).astype(np.int64)
    counts = np.bincount(grades)
    return {
        "splits": summary["splits"],
        "features": len(dataset.featuriser.schema.features),
        "columns": dataset.featuriser.numbers_width,
        "grades": [round(float(share), 4) for share in counts / counts.sum()],
    }


def fill(
    config: Config, models: Sequence[str], data: Mapping[str, Dataset], cache: Path, seeds: range
) -> dict[str, list[Cell]]:
    """Return the cells of every model, one per seed, computing those that the cache lacks."""
    record_setting(cache, config, data["graded"])
    cells: dict[str, list[Cell]] = {model: [] for model in models}
    pairs = [(model, seed) for model in models for seed in seeds]
    for model, seed in tqdm(pairs, "graded", disable=None):
        path = cache / f"{model}-{seed}.npz"
        if not path.exists():
            for name, cell in run(model, dataclasses.replace(config, seed=seed), data, cache):
                save(cache / f"{name}-{seed}.npz", cell)
        cells[model].append(load(path))
    return cells


def run(
    model: str, config: Config, data: Mapping[str, Dataset], cache: Path
) -> list[tuple[str, Cell]]:
    """Train one model and rank the test lists; a run of EGLR gives its warm start's cell too."""
    train, valid, test = (data["graded"].lists([s]).rankable() for s in ("train", "valid", "test"))
    length, began = config.slate_length, time.monotonic()
    if model in (RANDOM, LAMBDAMART):
        vocabulary = data["graded"].featuriser.vocabulary_size
        slate = (
            baselines.random_order(test, length, config.seed)
            if model == RANDOM
            else baselines.lambdamart(train, valid, test, length, config.seed, vocabulary)
        )
        return [(model, _cell(slate, test, began))]
    directory = cache / "run"
    shutil.rmtree(directory, ignore_errors=True)
    dataset = _dataset_of(model, data, cache)
    ranked = dataset.lists(["test"]).take(test.rows)  # the same lists in every data set
    sections = config.to_json()
    for section, fields in IDEAS.get(model, {}).items():
        sections[section] |= fields
    training = Run(Config.from_json(sections), dataset, directory, None)
    cells = []
    if model in (EGLR, WARM):
        training.run(stop_before="grpo")
        cells.append((WARM, _cell(_slates(training, ranked), test, began)))
        model = EGLR
    training.run()
    return [*cells, (model, _cell(_slates(training, ranked), test, began))]


def _dataset_of(model: str, data: Mapping[str, Dataset], cache: Path) -> Dataset:
    """Return the data set that a model learns from."""
    if model != BEHIND:
        return data["binary" if model == BINARY else "graded"]
    scored, origin = cache / "first stage", data["graded"].directory
    if not is_made_from(scored, origin):
        first_stage(origin, scored)
    return Dataset(scored)


def _slates(training: Run, lists: Lists) -> Array:
    budget = training.config.reasoning.budget
    return torch.cat([d.slate for d in training.policy.greedy_slates(lists, budget)]).numpy()


def _cell(slate: Array, test: Lists, began: float) -> Cell:
    """Return metrics [R] of slates [R, K] on test lists, and the seconds since `began`."""
    metrics = slate_metrics(slate, test.labels, test.scale)
    return {**metrics, "seconds": np.array(time.monotonic() - began)}


def summarise(cells: Mapping[str, list[Cell]]) -> dict[str, Any]:
    """Return means and paired differences with intervals over seeds and lists together."""
    values = {
        model: {m: np.array([cell[m] for cell in by_seed]) for m in METRICS}
        for model, by_seed in cells.items()
    }
    rows = []
    for model, metrics in values.items():
        row: dict[str, Any] = {m: rounded(_complete(v), 4) for m, v in metrics.items()}
        row["seconds"] = round(float(np.mean([cell["seconds"] for cell in cells[model]])), 1)
        row["by seed"] = [round(float(v), 4) for v in metrics[HEADLINE].mean(axis=1)]
        for base in (LAMBDAMART, EGLR):
            if model != base:
                row[f"over {base}"] = rounded(metrics[HEADLINE] - values[base][HEADLINE], 4)
        rows.append({"model": model, **row})
    seeds, lists = values[EGLR][HEADLINE].shape
    return {"seeds": seeds, "lists": lists, "rows": rows}


def _complete(values: Array) -> Array:
    """Drop the lists [S, R] without a positive, which have no binary metric."""
    return values[:, ~np.isnan(values).any(axis=0)]


def write_page(out: Path) -> None:
    """Write graded.md from the graded.json below `out`."""
    payload = json.loads((out / "graded.json").read_text(encoding="utf-8"))
    (out / "graded.md").write_text(page(payload), encoding="utf-8")


def page(payload: Mapping[str, Any]) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    rows = {row["model"]: row for row in payload["rows"]}
    return render(
        "graded.md.jinja",
        **{key: payload[key] for key in ("made", "log", "seeds", "lists")},
        rows=[rows[name] for name in (RANDOM, LAMBDAMART, WARM, EGLR, BINARY)],
        ideas=[rows[name] for name in (BEHIND, *IDEAS) if name in rows],
        over_lambdamart=f"over {LAMBDAMART}",
        over_eglr=f"over {EGLR}",
        headline=HEADLINE,
    )
