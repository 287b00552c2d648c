"""Give a data set an initial ranking: the same lists, each candidate with a first stage's score.

A re-ranker stands behind a first stage and may read its score. Where a log has none, this makes one
with LambdaMART, and makes it honest: a train list is scored by a ranker that saw no label of its
user, as a list in serving is.
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
from model.data.layout import SPLITS
from model.data.lists import Lists
from model.data.metrics import slate_metrics
from model.data.replacement import atomic_replacement
from model.study import lambdamart
from model.study.baselines import top

Array = np.ndarray[Any, Any]
FOLDS = 5
SEED = 0
SCORE = {"name": "score", "of": "candidate", "kind": "number", "relative": True}


def first_stage(data: Path, out: Path) -> dict[str, float]:
    """Write `out`: the data set `data` with a candidate feature `score`; the same bytes each time.

    Returns NDCG@10 of sorting by it, per split. Raises DataError where `data` is no data set, has a
    score already, or nothing to learn order from; and where `out` is no place for a data set.
    """
    if out.resolve() == data.resolve():
        raise DataError(out, "another directory than the data set it is made from")
    dataset = Dataset(data)
    if any(feature.name == SCORE["name"] for feature in dataset.featuriser.schema.features):
        raise DataError(data / "schema.yaml", "a schema without a feature named score")
    with atomic_replacement([out]) as (directory,):
        scored, rounds = _score(dataset)
        with_scores(dataset, scored).write_parquet(
            directory / "impressions.parquet", row_group_size=1 << 18
        )
        for name in ("items.parquet", "users.parquet", "histories.parquet"):
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
    """Whether `scored` is there and was made of what `data` holds now."""
    path = scored / "summary.json"
    if not path.exists():
        return False
    facts = json.loads(path.read_text(encoding="utf-8")).get("first_stage", {})
    return bool(facts.get("data") == Dataset(data).digest())


def user_folds(users: Sequence[str]) -> Array:
    """A fold for each list, int64 [R]; all lists of a user share one.

    Not the folds of the statistics, which part lists: a user's other lists have this list's labels
    in their histories, so that a ranker trained on them would know it.
    """
    names = sorted(set(users))
    fold = dict(zip(names, (statistics.folds(len(names)) % FOLDS).tolist(), strict=True))
    return np.array([fold[user] for user in users], np.int64)


def out_of_fold_scores(
    train: Lists, folds: Array, rounds: Sequence[int], seed: int, vocabulary: int
) -> Array:
    """Scores float64 [R, N] of train lists, each by a ranker fitted on the other folds [R] alone.

    -inf where padded. `rounds` of boosting, one entry per booster, instead of stopping early.
    """
    scores = np.full(train.mask.shape, -np.inf)
    for fold in tqdm(np.unique(folds), "first stage", disable=None, leave=False):
        others = train.take(np.flatnonzero(folds != fold)).rankable()
        ranker = lambdamart.fit(others, rounds, seed, vocabulary)
        rows = np.flatnonzero(folds == fold)
        scores[rows] = ranker.score(train.take(rows))
    return scores


def _score(dataset: Dataset) -> tuple[dict[str, tuple[Lists, Array]], Sequence[int]]:
    """Per split its lists and their scores [R, N]; and the rounds that validation chose."""
    vocabulary = dataset.featuriser.vocabulary_size
    present = set(dataset.rows.select(pl.col("split").unique()).collect()["split"])
    lists = {split: dataset.lists([split]) for split in SPLITS if split in present}
    for split in ("train", "valid"):
        if split not in lists or not len(lists[split].rankable()):
            rule = f"at least one {split} list with a positive and a negative, to learn order from"
            raise DataError(dataset.directory, rule, value="none")
    folds = user_folds(dataset.requests(["train"])["user_id"].to_list())
    for fold in np.unique(folds):
        if not len(lists["train"].take(np.flatnonzero(folds != fold)).rankable()):
            rule = "train lists with a positive and a negative of several users, for folds of them"
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
    """Rows in their own order, with `score`; the columns of scores are the lists' shown order."""
    # With __ in front: no feature is named so.
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
    return joined.drop("__index")


def _ndcg(lists: Lists, scores: Array) -> float:
    """Mean NDCG@10 over the lists that tell of order."""
    positives = (lists.labels > 0.5).sum(axis=1)
    rows = np.flatnonzero((positives > 0) & (positives < lists.mask.sum(axis=1)))
    slate = top(scores[rows], lists.mask[rows], 10)
    return float(slate_metrics(slate, lists.labels[rows])["ndcg@10"].mean())
