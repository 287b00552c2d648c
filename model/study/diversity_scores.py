"""Scores that the methods of the diversity report rank by: trained once per data set and seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.learning.policy import Batch, Policy
from model.learning.train import Run
from model.network.config import Config
from model.network.evaluator import Evaluator
from model.study import lambdamart
from model.study.grid import load, save

Array = np.ndarray[Any, Any]
TRAIN_LISTS, HELD_OUT = 6_000, 2_000  # of MovieLens
SPLITS = ("valid", "test")
LAMBDAMART, EVALUATOR, GENERATOR = "LambdaMART", "evaluator", "generator"


@dataclass(frozen=True)
class Source:
    """A data set of the report and the item attributes by which its slates are diversified."""

    name: str
    data: Path
    attributes: tuple[str, ...]
    train_lists: int | None = None  # train on the first so many lists; None for all
    held_out: int | None = None  # rank so many lists of each split, drawn at random; None for all
    seeds: int | None = None  # at most so many; None for no limit


@dataclass(frozen=True)
class Scored:
    """The held-out lists of one data set with the scores of one seed."""

    dataset: Dataset
    policy: Policy
    lists: dict[str, Lists]  # by split
    logits: dict[str, dict[str, Array]]  # by ranker and split: calibrated, float64 [R, N]


def score(source: Source, dataset: Dataset, config: Config, cache: Path) -> Scored:
    """Train what the cache lacks, and score the lists of SPLITS by LambdaMART and the evaluator.

    Args:
        config: configuration with the seed.
        cache: directory of this data set and seed.
    """
    torch.set_num_threads(1)
    config = dataclasses.replace(config, train_lists=source.train_lists or config.train_lists)
    run = Run(config, dataset, cache / "run", None)
    run.run()
    lists = {split: sample(dataset.lists([split]).rankable(), source.held_out) for split in SPLITS}
    path = cache / "scores.npz"
    if not path.exists():
        stop = dataset.lists(["valid"], config.train_lists).rankable()
        vocabulary = dataset.featuriser.vocabulary_size
        ranker = lambdamart.fit(run.rankable, stop, config.seed, vocabulary)
        save(
            path,
            {f"{LAMBDAMART} {split}": ranker.score(part) for split, part in lists.items()}
            | {f"{EVALUATOR} {s}": like_logits(run.evaluator, p) for s, p in lists.items()},
        )
    scores = load(path)
    logits = {
        ranker: calibrated({split: scores[f"{ranker} {split}"] for split in SPLITS}, lists)
        for ranker in (LAMBDAMART, EVALUATOR)
    }
    return Scored(dataset, run.policy, lists, logits)


def sample(lists: Lists, count: int | None) -> Lists:
    """Draw `count` lists, always the same ones, in their order; None or a large count: all."""
    if count is None or count >= len(lists):
        return lists
    drawn = np.random.default_rng(0).choice(len(lists), count, replace=False)
    return lists.take(np.sort(drawn))


@torch.no_grad()
def like_logits(evaluator: Evaluator, lists: Lists, batch: int = 256) -> Array:
    """Return the evaluator's logit of every candidate as a slate of one item, float32 [R, N].

    In a longer slate the logit would depend on an order, which is yet to be chosen.
    """
    evaluator.eval()
    parts = []
    for start in range(0, len(lists), batch):
        b = Batch(lists, slice(start, start + batch))
        alone = evaluator.embed(b.numbers, b.tokens).flatten(0, 1).unsqueeze(1)
        present = torch.ones(alone.shape[:2], dtype=torch.bool)
        parts.append(evaluator(alone, present).view(b.mask.shape))
    return torch.cat(parts).numpy()


def calibrated(scores: dict[str, Array], lists: dict[str, Lists]) -> dict[str, Array]:
    """Return logits of a like by Platt's scaling, fitted on the validation lists; 0 where padded.

    MMR, xQuAD and PM-2 need probabilities, which the scores of LambdaMART are not.
    """
    mask = lists["valid"].mask
    slope, offset = platt(scores["valid"][mask], lists["valid"].gains[mask])
    return {
        split: np.where(lists[split].mask, slope * values + offset, 0.0)
        for split, values in scores.items()
    }


def platt(scores: Array, gains: Array) -> tuple[float, float]:
    """Return slope and offset of the logistic regression of gains [X] on scores [X]."""
    design = np.stack([scores.astype(np.float64), np.ones(len(scores))])

    def objective(weights: Array) -> tuple[float, Array]:
        logits = weights @ design
        loss = np.logaddexp(0.0, logits).mean() - (gains * logits).mean()
        slope = design @ (1.0 / (1.0 + np.exp(-logits)) - gains) / len(scores)
        return float(loss), slope

    slope, offset = minimize(objective, [1.0, 0.0], jac=True, method="L-BFGS-B").x
    return float(slope), float(offset)


def sources(ranklens: Path, movielens: Path, smoke: bool = False) -> list[Source]:
    """Return the data sets of the report; MovieLens, which is larger, is cut to size."""
    if smoke:
        return [Source("RankLens", ranklens, ("genres",), held_out=80)]
    entries = [Source("RankLens", ranklens, ("genres", "tags"))]
    if movielens.exists():
        entries.append(Source("MovieLens", movielens, ("genres",), TRAIN_LISTS, HELD_OUT, 1))
    return entries
