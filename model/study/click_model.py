"""A simulated environment: a click model whose best slates can be computed.

Logs of real users do not reveal the best slate. Here the click probabilities are a formula, so
trying all slates gives the best one, and it is not the sort by item appeal:

    p_k = sigmoid(appeal_i - fatigue * repetition_k + attraction * [topic_i follows topic before])
    repetition_k = sum over j < k of decay^(k-1-j) * cos(topic_i, topic_j)
    e_0 = 1,  e_{k+1} = e_k * (1 - abandon * (1 - p_k))

- Appeal is the value of the item to this user by itself; it is a feature of the candidate.
- Fatigue lowers the clicks of items similar to those just before.
- Attraction raises the clicks of an item right after one of the topic before its own. It is an
  effect of order, which no set of items has.
- Abandonment: the user examines position k with probability e_k, and leaves sooner when no item
  gets a click.

The quality of a slate is its expected number of clicks, sum_k e_k p_k. Reports keep figures of this
environment apart from those of real data.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from model.data.dataset import Dataset
from model.data.prepare import prepare_impressions
from service.engine.features.featuriser import Featuriser

Array = np.ndarray[Any, Any]
TOPICS = 8
ITEMS = 400
CANDIDATES = 8
SLATE = 4
SCHEMA = f"""
name: world
features:
  - {{name: appeal, of: candidate, kind: number, required: true, relative: true}}
  - {{name: topic, of: item, kind: vector, width: {TOPICS}}}
"""


@dataclass(frozen=True)
class ClickModel:
    """Parameters of the click model, in logits; decay and abandon are shares."""

    fatigue: float = 2.0
    decay: float = 0.7
    attraction: float = 3.0
    abandon: float = 0.5

    def clicks(self, appeal: Array, topic: Array, slate: Array) -> tuple[Array, Array]:
        """Return examination and click probability, each float [R, K], of slates int [R, K].

        appeal float [R, N]; topic float [R, N, T], unit rows; every entry of slate is a candidate.
        """
        appeals = np.take_along_axis(appeal, slate, axis=1)
        topics = np.take_along_axis(topic, slate[:, :, None], axis=1)
        examined, clicked = np.ones(slate.shape), np.zeros(slate.shape)
        repetition = np.zeros(slate.shape[:1] + topic.shape[2:])
        for k in range(slate.shape[1]):
            logit = appeals[:, k] - self.fatigue * (repetition * topics[:, k]).sum(axis=1)
            if k:
                attracted = np.roll(topics[:, k - 1], 1, axis=1)  # topic t attracts topic t + 1
                logit = logit + self.attraction * (attracted * topics[:, k]).sum(axis=1)
            clicked[:, k] = 1.0 / (1.0 + np.exp(-logit))
            if k + 1 < slate.shape[1]:
                leave = self.abandon * (1.0 - clicked[:, k])
                examined[:, k + 1] = examined[:, k] * (1.0 - leave)
            repetition = self.decay * repetition + topics[:, k]
        return examined, clicked

    def expected_clicks(self, appeal: Array, topic: Array, slate: Array) -> Array:
        """Return the expected clicks float [R] of slates int [R, K]."""
        examined, clicked = self.clicks(appeal, topic, slate)
        return np.asarray((examined * clicked).sum(axis=1))

    def best_slates(self, appeal: Array, topic: Array, length: int) -> tuple[Array, Array]:
        """Try all slates; return each list's best int [R, length] and its expected clicks [R]."""
        rows, size = appeal.shape
        best, worth = np.zeros((rows, length), np.int64), np.full(rows, -np.inf)
        for order in itertools.permutations(range(size), length):
            slate = np.broadcast_to(np.array(order), (rows, length))
            clicks = self.expected_clicks(appeal, topic, slate)
            better = clicks > worth
            best[better], worth[better] = order, clicks[better]
        return best, worth


class ClickModelReward:
    """A reward model without estimation error: the click model's expected clicks.

    It reads the same columns as a network, converted back into appeal and topic. Regret under it is
    due to the generator alone.
    """

    def __init__(self, featuriser: Featuriser, click_model: ClickModel) -> None:
        self.click_model = click_model
        self.appeal, self.topic = featuriser.column("appeal"), featuriser.column("topic")
        (feature,) = (f for f in featuriser.schema.features if f.name == "appeal")
        self.mean, self.std = feature.mean, feature.std

    def embed(self, numbers: Tensor, _tokens: Tensor, /) -> Tensor:
        """Convert numbers [B, N, F] to appeal (logits) and topic, side by side [B, N, 1 + T]."""
        appeal = numbers[..., self.appeal, None] * self.std + self.mean
        return torch.cat([appeal, numbers[..., self.topic : self.topic + TOPICS]], dim=-1)

    def utility(self, embedded: Tensor, slate: Tensor) -> Tensor:
        """Return the expected clicks [B] of slates int64 [B, K], every position filled."""
        features = embedded.double().cpu().numpy()
        worth = self.click_model.expected_clicks(
            features[..., 0], features[..., 1:], slate.cpu().numpy()
        )
        return torch.from_numpy(worth).to(embedded)


def prepare_simulation(
    out: Path, requests: int, seed: int, click_model: ClickModel | None = None
) -> None:
    """Write `out`: a canonical data set of `requests` logged lists with simulated clicks.

    Each logged list holds all candidates of its request in random order, so the log covers every
    neighbourhood. Splits: 80 % train, 10 % valid, 10 % test, in order of time.
    """
    click_model = click_model or ClickModel()
    draw = np.random.default_rng(seed)
    topics = np.eye(TOPICS)[draw.integers(TOPICS, size=ITEMS)]
    quality = 0.5 * draw.standard_normal(ITEMS)
    items = np.argsort(draw.random((requests, ITEMS)), axis=1)[:, :CANDIDATES]
    taste = draw.standard_normal((requests, TOPICS))
    appeal = quality[items] + (topics[items] @ taste[:, :, None])[:, :, 0] - 0.5
    order = np.broadcast_to(np.arange(CANDIDATES), items.shape)
    examined, clicked = click_model.clicks(appeal, topics[items], order)
    # As in a real log, a position that the user did not examine has label 0.
    label = draw.random(items.shape) < examined * clicked
    share = np.arange(requests) / requests
    split = np.where(share < 0.8, "train", np.where(share < 0.9, "valid", "test"))
    number = np.repeat(np.arange(requests), CANDIDATES)
    log = pl.DataFrame(
        {
            "request_id": [f"r{i}" for i in number],
            "user_id": [f"u{i}" for i in number],
            "timestamp": number,
            "position": order.ravel(),
            "item_id": [f"i{i}" for i in items.ravel()],
            "label": label.ravel().astype(np.float32),
            "split": np.repeat(split, CANDIDATES),
            "appeal": appeal.ravel(),
        }
    )
    table = pl.DataFrame(
        {"item_id": [f"i{i}" for i in range(ITEMS)], "topic": topics.tolist()},
        schema_overrides={"topic": pl.List(pl.Float64)},
    )
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        log.write_parquet(scratch / "world.parquet")
        table.write_parquet(scratch / "items.parquet")
        (scratch / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
        prepare_impressions(
            scratch / "world.parquet", scratch / "schema.yaml", out, scratch / "items.parquet"
        )


def appeals_and_topics(dataset: Dataset, split: str) -> tuple[Array, Array]:
    """Return appeal float [R, N] and topic float [R, N, T] of a split, in the order of `lists`."""
    topic = {row["item_id"]: row["topic"] for row in dataset.items.iter_rows(named=True)}
    impressions = list(dataset.impressions([split]))
    appeal = [[features["appeal"] for features in i.request.features] for i in impressions]
    topics = [[topic[item] for item in i.request.ids] for i in impressions]
    return np.array(appeal, np.float64), np.array(topics, np.float64)
