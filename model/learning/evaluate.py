"""Rank held-out lists with a bundle, and measure the slates."""

from __future__ import annotations

import dataclasses
import json
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.data.dataset import Dataset, Impression
from model.data.errors import DataError
from model.data.intervals import rounded
from model.data.metrics import slate_metrics
from service.engine.session import Session


def shuffled(impression: Impression, seed: int = 0) -> Impression:
    """Return the list in random order, so that its order carries no information.

    The shuffle depends on the request id alone, so that every evaluation ranks the same lists.
    """
    draw = np.random.default_rng([seed, *impression.request_id.encode()])
    order = draw.permutation(len(impression.labels)).tolist()
    inline = bool(impression.request.features)
    request = dataclasses.replace(
        impression.request,
        ids=[impression.request.ids[i] for i in order],
        scores=[impression.request.scores[i] for i in order],
        features=[impression.request.features[i] for i in order] if inline else (),
    )
    return dataclasses.replace(
        impression, request=request, labels=tuple(impression.labels[i] for i in order)
    )


def rankable(impressions: Iterable[Impression]) -> list[Impression]:
    """Return the lists with a positive and a negative label; the others have no better order."""
    return [i for i in impressions if 0 < sum(y > 0.5 for y in i.labels) < len(i.labels)]


# A ranker returns, per list, the chosen candidate indices and the number of reasoning steps.
Ranker = Callable[[Sequence[Impression]], list[tuple[list[int], int]]]


def session_ranker(session: Session) -> Ranker:
    """Rank in this process, with the service's featuriser and session."""

    def rank(impressions: Sequence[Impression]) -> list[tuple[list[int], int]]:
        slates = session.run([session.row(i.request) for i in impressions])
        return [(slate.indices.tolist(), int(slate.steps.sum())) for slate in slates]

    return rank


def http_ranker(url: str, attempts: int = 5) -> Ranker:
    """Rank through a running service; a call with a degraded response is repeated.

    The model did not produce a degraded response: the machine stalled longer than the server's
    deadline. Raises OSError when the service does not respond, or degrades every attempt.
    """

    def rank(impressions: Sequence[Impression]) -> list[tuple[list[int], int]]:
        bodies = [i.request.to_json() | {"timeout_ms": 30_000} for i in impressions]
        request = urllib.request.Request(
            f"{url}/rerank/batch", json.dumps({"requests": bodies}).encode(), method="POST"
        )
        for _ in range(attempts):
            with urllib.request.urlopen(request, timeout=60) as response:
                responses = json.load(response)["responses"]
            degraded = {r["degraded"]["reason"] for r in responses if r["degraded"]}
            if not degraded:
                break
        else:
            reasons = ", ".join(sorted(degraded))
            raise OSError(
                f"{url}: degraded ({reasons}) {attempts} times; evaluate on an idle machine"
            )
        return [
            (
                [entry["initial_position"] for entry in response["slate"]],
                response["reasoning"]["steps_used"],
            )
            for response in responses
        ]

    return rank


def evaluate(
    session: Session, data: Path, split: str = "test", rank: Ranker | None = None
) -> dict[str, Any]:
    """Return metrics of a bundle on one split of a data set, as `[mean, low, high]` over lists.

    The lists are shuffled, and ranked by `rank`, by default the session. `ndcg@10 gain over` holds
    paired differences from the shown order and from sorting by the item like rate. Intervals are
    95 % bootstrap intervals over lists. Raises DataError for a split without a list that has a
    positive and a negative.
    """
    logged = rankable(Dataset(data).impressions([split]))
    if not logged:
        rule = f"must have at least one {split} list with a positive and a negative"
        raise DataError(data, rule, value=0)
    impressions = [shuffled(i) for i in logged]
    labels = [i.labels for i in impressions]
    rank = rank or session_ranker(session)
    slates, steps = [], []
    for start in tqdm(range(0, len(impressions), 32), f"evaluate {split}", leave=False):
        for slate, used in rank(impressions[start : start + 32]):
            slates.append(slate)
            steps.append(used)
    length = max(map(len, slates))
    baselines = {
        "shown order": slate_metrics(
            *padded(
                [list(range(min(length, len(i.labels)))) for i in logged],
                [i.labels for i in logged],
            )
        )
    }
    rate = session.featuriser.schema.history.rate
    if rate is not None:
        column = session.featuriser.column(rate)
        orders = [
            np.argsort(-session.featuriser.transform(i.request)[0][:, column], kind="stable")
            for i in impressions
        ]
        by_rate = [order[:length].tolist() for order in orders]
        baselines["item like rate"] = slate_metrics(*padded(by_rate, labels))
    scores = slate_metrics(*padded(slates, labels))
    result: dict[str, Any] = {"data": f"{data.parent.name}/{data.name}", "split": split}
    result["lists"] = len(impressions)
    for name, values in (*scores.items(), ("reasoning_steps", np.array(steps, np.float64))):
        result[name] = rounded(values, 4)
    result["ndcg@10 gain over"] = {
        name: rounded(scores["ndcg@10"] - other["ndcg@10"], 4) for name, other in baselines.items()
    }
    return result


def padded(
    slates: Sequence[Sequence[int]], labels: Sequence[Sequence[float]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pad ragged slates and labels to int64 [R, K] (-1 = empty) and float32 [R, N]."""
    slate = np.full((len(slates), max(map(len, slates))), -1, np.int64)
    label = np.zeros((len(labels), max(map(len, labels))), np.float32)
    for index, (chosen, values) in enumerate(zip(slates, labels, strict=True)):
        slate[index, : len(chosen)] = chosen
        label[index, : len(values)] = values
    return slate, label
