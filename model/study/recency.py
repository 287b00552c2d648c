"""Compare laws of statistics: out of fold, as of each row, and with half-lives; or splits.

Every law is measured on the same split of the same log, or every split with the same law, by the
order of the like rate and by a LambdaMART on all features, for callers that send ids only and for
callers that send fresh values.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from model.data import statistics
from model.data.dataset import Dataset
from model.data.intervals import format_interval, rounded
from model.data.lists import Lists
from model.data.log_splits import SplitOptions
from model.data.metrics import slate_metrics
from model.data.prepare import prepare_impressions
from model.data.schemas import load_schema
from model.study import lambdamart
from model.study.baselines import shown_order, top
from model.study.commands import Recency, command_line
from model.study.drifting_logs import DRIFTING, write_ranklens, write_ratings
from model.study.moving_items import write_changing_items, write_fading_items
from model.study.pages import provenance

Array = np.ndarray[Any, Any]
Write = Callable[[Path, Any], None]
POSITIONS = 10
CASES: dict[str, Write] = {
    "changing items": write_changing_items,
    "fading items": write_fading_items,
    **DRIFTING,
}
OUT_OF_FOLD, AS_OF = "out of fold", "as of"
TIME = "time"


def report(command: Recency) -> None:
    """Measure every case, seed, law and split that is not cached; print and write the figures."""
    logs: list[tuple[str, int, Write, Any]] = [
        (case, seed, write, seed) for case, write in CASES.items() for seed in range(command.seeds)
    ]
    if command.events is not None:
        logs.append(("RankLens in order", 0, write_ranklens, command.events))
    if command.ratings is not None:
        logs.append(("ratings", 0, write_ratings, command.ratings))
    rows = []
    for case, seed, write, argument in logs:
        scratch = command.cache / case.replace(" ", "-") / str(seed)
        for law, split in laws_and_splits(command):
            name = law if split == TIME else f"{law} {split}"
            cached = scratch / f"{name.replace(' ', '-')}.json"
            if not cached.exists():
                if not (scratch / "log.parquet").exists():
                    write(scratch, argument)
                figures = measure_law(scratch, law, seed, split)
                cached.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            figures = json.loads(cached.read_text(encoding="utf-8"))
            if figures is None:
                continue
            row = {"case": case, "seed": seed, "law": law, "split": split, **figures}
            print(line(row), flush=True)
            rows.append(row)
    made = provenance(command_line("recency", command))
    command.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"made": made, "rows": rows}, indent=1) + "\n"
    command.out.write_text(text, encoding="utf-8")


def laws_and_splits(command: Recency) -> list[tuple[str, str]]:
    """Return the laws, all on the split by time, or the splits that the command names."""
    if command.splits:
        return [(AS_OF, split) for split in command.splits]
    return [(law, TIME) for law in (OUT_OF_FOLD, AS_OF, *command.half_lives)]


def line(row: dict[str, Any]) -> str:
    """Return one line about the gains over the shown order in NDCG@10."""
    figures = ", ".join(
        f"{name} {format_interval(gain, signed=True)}" for name, gain in row["gain"].items()
    )
    split = "" if row["split"] == TIME else f", {row['split']} split"
    return f"{row['case']} seed {row['seed']}, {row['law']}{split}: {figures}"


def measure_law(scratch: Path, law: str, seed: int, split: str = TIME) -> dict[str, Any] | None:
    """Prepare a log with one law of statistics and one split, and return figures of its rankers.

    Returns None for a log that the split leaves without valid lists, as the split last-list does
    where users have one list each.

    Args:
        scratch: directory with log.parquet, schema.yaml and perhaps items.parquet.
        law: `out of fold`, `as of`, or a half-life.
    """
    data = scratch / f"{law} {split}".replace(" ", "-")
    items = scratch / "items.parquet"
    schema = with_half_life(scratch / "schema.yaml", law)
    log, table = scratch / "log.parquet", items if items.exists() else None
    prepare_impressions(log, schema, data, table, splitting=SplitOptions(split))
    if law == OUT_OF_FOLD:
        replace_by_out_of_fold(data)
    dataset = Dataset(data)
    present = dataset.rows.select(pl.col("split").unique()).collect()["split"]
    figures = measure(dataset, seed) if "valid" in present else None
    shutil.rmtree(data)
    return figures


def with_half_life(schema: Path, law: str) -> Path:
    """Write the schema with a half-life for each statistic, and return its path."""
    if law in (OUT_OF_FOLD, AS_OF):
        return schema
    payload = yaml.safe_load(schema.read_text(encoding="utf-8"))
    for feature in payload["features"]:
        if feature["kind"] == "statistic":
            feature["half_life"] = law
    changed = schema.with_name(f"schema-{law}.yaml")
    changed.write_text(yaml.safe_dump(payload, sort_keys=False), encoding="utf-8")
    return changed


def replace_by_out_of_fold(data: Path) -> None:
    """Give the train rows of a data set the out-of-fold values of a log without time."""
    rows = pl.read_parquet(data / "impressions.parquet")
    train = rows.filter(pl.col("split") == "train")
    requests = train.select(pl.col("request_id").unique(maintain_order=True))
    requests = requests.with_columns(fold=pl.Series(statistics.folds(len(requests))))
    schema = load_schema(data / "schema.yaml")
    folded = train.lazy().join(requests.lazy(), on="request_id")
    counts = statistics.like_counts(folded, schema.label)
    for feature in schema.features:
        if feature.kind == "statistic":
            values = statistics.out_of_fold_like_rates(counts, feature.prior_strength)
            rows = rows.join(requests, on="request_id", how="left", maintain_order="left")
            rows = rows.join(values, on=["item_id", "fold"], how="left", maintain_order="left")
            value = pl.coalesce("value", feature.name).alias(feature.name)
            rows = rows.with_columns(value).drop("value", "fold")
    rows.write_parquet(data / "impressions.parquet")


def measure(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Return the number of test lists, NDCG@10 of each ranker, and its gain over shown order."""
    train, valid = (dataset.lists([split]).rankable() for split in ("train", "valid"))
    ranker = lambdamart.fit(train, valid, seed, dataset.featuriser.vocabulary_size)
    rate = dataset.featuriser.schema.history.rate
    assert rate is not None
    column = dataset.featuriser.column(rate)
    figures: dict[str, Any] = {"ndcg@10": {}, "gain": {}}
    for caller in ("ids only", "fresh"):
        test = dataset.lists(["test"], fresh=caller == "fresh").rankable()
        displayed = _ndcg(shown_order(test, POSITIONS), test)
        for name, scores in (
            (f"like rate, {caller}", test.numbers[:, :, column]),
            (f"LambdaMART, {caller}", ranker.score(test)),
        ):
            quality = _ndcg(top(scores, test.mask, POSITIONS), test)
            figures["ndcg@10"][name] = round(float(quality.mean()), 4)
            figures["gain"][name] = rounded(quality - displayed, 4)
        figures["lists"] = len(test)
        figures["shown order"] = round(float(displayed.mean()), 4)
    return figures


def _ndcg(slate: Array, lists: Lists) -> Array:
    return slate_metrics(slate, lists.labels)["ndcg@10"]
