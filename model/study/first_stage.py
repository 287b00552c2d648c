"""Add an initial ranking to a data set: the same lists with a first stage's score per candidate.

A re-ranker stands behind a first stage and may read its score. For a log without scores this module
makes them with LambdaMART. A train list is scored by a ranker that had no label of its user, as a
list in serving is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from tqdm import tqdm

from model.data import statistics
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.layout import CANDIDATES, SPLITS
from model.data.lists import Lists
from model.data.metrics import selecting_metric, slate_metrics
from model.data.replacement import atomic_replacement
from model.study import lambdamart
from model.study.baselines import top

Array = np.ndarray[Any, Any]
FOLDS = 5
SEED = 0
SCORE = {"name": "score", "of": "candidate", "kind": "number", "relative": True}


def first_stage(data: Path, out: Path) -> dict[str, float]:
    """Write `out`: the data set `data` with a candidate feature `score`; the same bytes each time.

    Returns NDCG@10 of sorting by the score, per split. Raises DataError if `data` is no data set,
    has a score already or no list to learn order from, and if `out` cannot hold a data set.
    """
    if out.resolve() == data.resolve():
        raise DataError(out, "must not be the directory of --data; choose another --out")
    dataset = Dataset(data)
    if any(feature.name == SCORE["name"] for feature in dataset.featuriser.schema.features):
        raise DataError(
            data / "schema.yaml", "must not have a feature named score, which the first stage adds"
        )
    if dataset.candidates is not None:
        rule = "must be absent: the lists of a journal have the first stage that served them"
        raise DataError(data / CANDIDATES, rule)
    with atomic_replacement([out]) as (directory,):
        scored, rounds = _score(dataset)
        with_scores(dataset, scored).write_parquet(
            directory / "impressions.parquet", row_group_size=1 << 18
        )
        for name in ("items.parquet", "users.parquet", "histories.parquet", "statistics.parquet"):
            if (data / name).exists():
                shutil.copyfile(data / name, directory / name)
        schema = yaml.safe_load((data / "schema.yaml").read_text(encoding="utf-8"))
        schema["features"] = [*(schema.get("features") or ()), SCORE]
        text = yaml.safe_dump(schema, sort_keys=False, allow_unicode=True)
        (directory / "schema.yaml").write_text(text, encoding="utf-8")
        facts = {"data": dataset.digest(), "folds": FOLDS, "rounds": list(rounds)}
        summary = json.loads((data / "summary.json").read_text(encoding="utf-8"))
        text = json.dumps({**summary, "first_stage": facts}, indent=2, ensure_ascii=False)
        (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
    return {split: _ndcg(*pair) for split, pair in scored.items() if split != "history"}


def is_made_from(scored: Path, data: Path) -> bool:
    """Return true if `scored` exists and was made from the present contents of `data`."""
    path = scored / "summary.json"
    if not path.exists():
        return False
    facts = json.loads(path.read_text(encoding="utf-8")).get("first_stage", {})
    return bool(facts.get("data") == Dataset(data).digest())


def user_folds(users: Sequence[str]) -> Array:
    """Assign a fold to each list, int64 [R]; all lists of a user share one.

    The folds of the statistics will not do, because they separate lists of one user. The histories
    of a user's other lists contain this list's labels, so a ranker trained on them would have seen
    them.
    """
    names = sorted(set(users))
    fold = dict(zip(names, (statistics.folds(len(names)) % FOLDS).tolist(), strict=True))
    return np.array([fold[user] for user in users], np.int64)


def out_of_fold_scores(
    train: Lists, folds: Array, rounds: Sequence[int], seed: int, vocabulary: int
) -> Array:
    """Score train lists, float64 [R, N], each by a ranker fitted on the other folds [R] alone.

    Padded entries are -inf. `rounds` gives the boosting rounds of each booster instead of early
    stopping.
    """
    scores = np.full(train.mask.shape, -np.inf)
    for fold in tqdm(np.unique(folds), "first stage", disable=None, leave=False):
        others = train.take(np.flatnonzero(folds != fold)).rankable()
        ranker = lambdamart.fit(others, rounds, seed, vocabulary)
        rows = np.flatnonzero(folds == fold)
        scores[rows] = ranker.score(train.take(rows))
    return scores


def _score(dataset: Dataset) -> tuple[dict[str, tuple[Lists, Array]], Sequence[int]]:
    """Return the lists and scores [R, N] of each split, and the rounds that validation chose."""
    vocabulary = dataset.featuriser.vocabulary_size
    present = set(dataset.rows.select(pl.col("split").unique()).collect()["split"])
    lists = {split: dataset.lists([split]) for split in SPLITS if split in present}
    for split in ("train", "valid"):
        if split not in lists or not len(lists[split].rankable()):
            rule = f"must have a {split} list with a positive and a negative, to learn order from"
            raise DataError(dataset.directory, rule, value="none")
    folds = user_folds(dataset.requests(["train"])["user_id"].to_list())
    for fold in np.unique(folds):
        if not len(lists["train"].take(np.flatnonzero(folds != fold)).rankable()):
            rule = "must have train lists with a positive and a negative of several users"
            raise DataError(dataset.directory, rule)
    rankable = lists["train"].rankable()
    ranker = lambdamart.fit(rankable, lists["valid"].rankable(), SEED, vocabulary)
    scored = {
        split: (part, ranker.score(part)) for split, part in lists.items() if split != "train"
    }
    train = lists["train"]
    scores = out_of_fold_scores(train, folds, ranker.rounds, SEED, vocabulary)
    return {"train": (train, scores), **scored}, ranker.rounds


def with_scores(dataset: Dataset, scored: dict[str, tuple[Lists, Array]]) -> pl.DataFrame:
    """Return the rows in their order with a column `score`; scores [R, N] are in logged order."""
    # No feature name starts with two underscores.
    index = pl.int_range(pl.len()).over("request_id").alias("__index")
    tables = []
    for split, (lists, scores) in scored.items():
        row, column = np.nonzero(lists.mask)
        request = dataset.requests([split])["request_id"].gather(row)
        values = scores[row, column]
        tables.append(pl.DataFrame({"request_id": request, "__index": column, "score": values}))
    table = pl.concat(tables)
    joined = (
        dataset.rows.collect()
        .with_columns(index)
        .join(table, on=["request_id", "__index"], how="left", maintain_order="left")
    )
    if dataset.shards:  # whose rows are in the order of time in each shard alone
        joined = joined.sort("timestamp", "request_id", "position")
    return joined.drop("__index")


def _ndcg(lists: Lists, scores: Array) -> float:
    """Return the mean NDCG@10, graded with a graded gain, over the lists that have an order."""
    rows = np.flatnonzero(lists.has_order())
    slate = top(scores[rows], lists.mask[rows], 10)
    metrics = slate_metrics(slate, lists.labels[rows], lists.scale)
    return float(metrics[selecting_metric(lists.scale)].mean())
