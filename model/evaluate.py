"""Ask a served bundle for slates of held-out lists, and measure them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.dataset import Dataset, Impression
from model.metrics import interval, slate_metrics
from service.session import Session


def uninformative(impression: Impression, seed: int = 0) -> Impression:
    """The same list as a stranger would send it: shuffled, ids only, no scores.

    The shuffle depends on the request id alone, so that every evaluation asks the same thing.
    """
    draw = np.random.default_rng([seed, *impression.request_id.encode()])
    order = draw.permutation(len(impression.labels)).tolist()
    request = dataclasses.replace(
        impression.request,
        ids=[impression.request.ids[i] for i in order],
        scores=(),
        features=(),
    )
    return dataclasses.replace(
        impression, request=request, labels=tuple(impression.labels[i] for i in order)
    )


def rankable(impressions: Iterable[Impression]) -> list[Impression]:
    """Those with a positive and a negative label; the others tell nothing about order."""
    return [i for i in impressions if 0 < sum(y > 0.5 for y in i.labels) < len(i.labels)]


def evaluate(
    session: Session, data: Path, split: str = "test", batch: int = 64, budget: int | None = None
) -> dict[str, Any]:
    """Metrics of a bundle on one split of a data set, as `[mean, low, high]` over lists.

    The lists go through the service's featuriser and session, shuffled, without first-stage
    scores. Intervals are 95 % bootstrap intervals over lists.
    """
    impressions = rankable(uninformative(i) for i in Dataset(data).impressions([split]))
    slates, steps = [], []
    for start in tqdm(range(0, len(impressions), batch), f"evaluate {split}", leave=False):
        rows = [session.row(i.request, budget=budget) for i in impressions[start : start + batch]]
        for slate in session.run(rows):
            slates.append(slate.indices)
            steps.append(slate.steps.sum())
    scores = slate_metrics(*padded(slates, [i.labels for i in impressions]))
    result: dict[str, Any] = {"data": f"{data.parent.name}/{data.name}", "split": split}
    result["lists"] = len(impressions)
    scores["reasoning_steps"] = np.array(steps, np.float64)
    for name, values in scores.items():
        result[name] = [round(value, 4) for value in interval(values)]
    return result


def padded(
    slates: Sequence[np.ndarray[Any, Any]], labels: Sequence[Sequence[float]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ragged slates and labels -> int64 [R, K] (-1 = empty) and float32 [R, N]."""
    slate = np.full((len(slates), max(map(len, slates))), -1, np.int64)
    label = np.zeros((len(labels), max(map(len, labels))), np.float32)
    for index, (chosen, given) in enumerate(zip(slates, labels, strict=True)):
        slate[index, : len(chosen)] = chosen
        label[index, : len(given)] = given
    return slate, label
