"""Tiny lists of candidates with values, and a reward model whose utilities one can compute."""

from typing import Any

import numpy as np
import torch

from model.data.lists import Arrays, Lists
from model.learning.objectives import Objective
from model.learning.policy import Batch
from model.network.config import Config
from model.network.evaluator import Evaluator, discount
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Schema

SCHEMA: dict[str, Any] = {
    "name": "terms",
    "features": [
        {"name": "appeal", "of": "candidate", "kind": "number"},
        {"name": "style", "of": "candidate", "kind": "vector", "width": 2},
        {"name": "genres", "of": "candidate", "kind": "categories", "width": 2,
         "vocabulary": ["x", "y", "z"]},
        {"name": "seller", "of": "candidate", "kind": "category", "vocabulary": ["big", "small"]},
        {"name": "item_id", "of": "item", "kind": "identifier", "buckets": 4},
        {"name": "hour", "of": "context", "kind": "category", "vocabulary": ["9"]},
    ],
}  # fmt: skip


class AppealReward:
    """The mean, discounted as in DCG, of the appeals of a slate's items, which are in [0, 1]."""

    def embed(self, numbers, _tokens, /):
        return numbers[..., :1]

    def utility(self, embedded, slate):
        index = slate.clamp(min=0)
        weight = (slate >= 0) * discount(slate.shape[1])
        return (embedded[..., 0].gather(1, index) * weight).sum(dim=1) / weight.sum(dim=1)


def featuriser() -> Featuriser:
    items = ItemTable(("a",), np.zeros((1, 0), np.float32), np.ones((1, 1), np.int64), {})
    return Featuriser(Schema.from_dict(SCHEMA), items)


def lists_of(candidates, labels=None) -> Lists:
    """Build lists from candidates (appeal, genres, seller, style); shorter lists are padded."""
    made = featuriser()
    layout, longest = made.layout, max(map(len, candidates))
    shape = len(candidates), longest, made.numbers_width, made.tokens_width
    arrays = Arrays.zeros(*shape)
    for row, entries in enumerate(candidates):
        arrays.mask[row, : len(entries)] = True
        for place, (appeal, genres, seller, style) in enumerate(entries):
            arrays.numbers[row, place, layout.column["appeal"]] = appeal
            arrays.numbers[row, place, layout.columns(layout.features["style"])] = style
            for name, value in (("genres", [*genres]), ("seller", seller)):
                feature = layout.features[name]
                encoded = layout.encode_tokens(feature, [value], name)
                arrays.tokens[row, place, layout.slots(feature)] = encoded[0]
    if labels is not None:
        arrays.labels[:] = labels
    return Lists.of(arrays._asdict())


def random_lists(sizes, seed=0) -> Lists:
    """Draw lists of these sizes, with one or two genres of three per candidate."""
    draw = np.random.default_rng(seed)
    return lists_of(
        [
            [
                (
                    draw.uniform(0.1, 0.9),
                    draw.choice(["x", "y", "z"], draw.integers(1, 3), replace=False),
                    draw.choice(["big", "small"]),
                    draw.normal(size=2),
                )
                for _ in range(size)
            ]
            for size in sizes
        ]
    )


def config_of(*terms, utility=0.0, length=3, **more) -> Config:
    objectives = {"utility": utility, "terms": terms}
    return Config.from_json({"slate_length": length, "objectives": objectives, **more})


def objective_of(config, reward=None) -> Objective:
    return Objective(config, featuriser(), reward or AppealReward())


def random_evaluator(config, seed=0) -> Evaluator:
    """Build an evaluator whose likes depend strongly on the neighbours in the slate."""
    torch.manual_seed(seed)
    made = featuriser()
    network = config.evaluator_network or config.network
    evaluator = Evaluator(network, made.numbers_width, made.vocabulary_size, 16).eval()
    with torch.no_grad():
        for parameter in evaluator.parameters():
            parameter.mul_(2.0)
    return evaluator


def value_of(config, lists, slates, reward=None):
    """Return the objective of slates int [B, K] of lists, one for each."""
    of_lists = objective_of(config, reward).of(Batch(lists, slice(None)))
    return of_lists.value(torch.tensor(slates).unsqueeze(1)).squeeze(1)
