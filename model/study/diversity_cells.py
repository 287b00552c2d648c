"""Settings of the methods of the diversity report, and the metrics of each, cached in files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.study import diversity_methods as methods
from model.study.diversity_loop import loop_slates
from model.study.diversity_metrics import Meter, candidate_values
from model.study.diversity_scores import EVALUATOR, GENERATOR, LAMBDAMART, Scored
from model.study.grid import load, save

Array = np.ndarray[Any, Any]
Parameters = tuple[tuple[str, Any], ...]  # names and values


def product(**choices: tuple[Any, ...]) -> tuple[Parameters, ...]:
    """Return every combination of the choices."""
    return tuple(
        tuple(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    )


@dataclass(frozen=True)
class Method:
    """A method, the weights of its front, and the parameters that validation chooses from."""

    name: str
    criterion: Callable[..., methods.Criterion] | None  # None: the decoding loop
    weights: tuple[float, ...]
    parameters: tuple[Parameters, ...]


PLAIN, PM2 = "plain sort", "PM-2"
LAWS = product(law=("sum",), decay=(0.2, 0.3, 0.5)) + product(law=("mean",), decay=(0.3,))
LOOP = Method("bonus in the loop", None, (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0), LAWS)
BONUS = Method("bonus", methods.bonus, (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5), LAWS)
POST_PROCESSING = (
    BONUS,
    Method(
        "MMR",
        methods.mmr,
        (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
        product(relevance=("probability", "logit")),
    ),
    Method(
        "xQuAD",
        methods.xquad,
        (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0),
        product(prior=("uniform", "mass"), redundancy=(0.5, 1.0)),
    ),
    Method(
        "DPP",
        methods.dpp,
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
        product(mixing=(0.5, 0.9, 0.99)),
    ),
    Method(PM2, methods.pm2, (0.1, 0.3, 0.5, 0.7, 0.9), product(prior=("uniform", "mass"))),
)


@dataclass(frozen=True)
class Front:
    """A method over one ranker's scores with fixed parameters; its weights make a front."""

    ranker: str
    method: Method
    parameters: tuple[tuple[str, Any], ...]

    @property
    def options(self) -> dict[str, Any]:
        """Return the parameters as arguments of the criterion."""
        return dict(self.parameters)

    @property
    def label(self) -> str:
        """Return the parameters as text, such as "law sum, decay 0.3"."""
        return ", ".join(f"{name} {value}" for name, value in self.parameters)

    @property
    def title(self) -> str:
        """Return ranker, method and parameters as text."""
        return f"{self.ranker}, {self.method.name}, {self.label}"


def fronts() -> Iterator[Front]:
    """Yield the fronts of the loop, then those of each ranker's scores."""
    pairs = [(GENERATOR, LOOP)]
    pairs += itertools.product((LAMBDAMART, EVALUATOR), POST_PROCESSING)
    for ranker, method in pairs:
        for parameters in method.parameters:
            yield Front(ranker, method, parameters)


def fill(
    scored: Scored, split: str, attribute: str, selected: Sequence[Front], cache: Path
) -> dict[Front, Array]:
    """Return METRICS of the lists of a split for each front, float32 [W, M, R]; W are the weights.

    A list without alpha-NDCG has NaN everywhere. Points that the cache lacks are computed.
    """
    lists = scored.lists[split]
    values = candidate_values(scored.dataset, lists, split, attribute)
    meter = Meter(lists, values)
    filled = {}
    for front in tqdm(selected, f"{split} {attribute}", disable=None):
        path = cache / f"{split} {attribute} {front.title}.npz"
        points = dict(load(path)) if path.exists() else {}
        absent = [weight for weight in front.method.weights if str(weight) not in points]
        for weight in absent:
            slate = _slate(front, weight, scored, split, values, cache)
            points[str(weight)] = meter.measure(slate)
        if absent:
            save(path, points)
        filled[front] = np.stack([points[str(weight)] for weight in front.method.weights])
    return filled


def _slate(
    front: Front, weight: float, scored: Scored, split: str, values: Array, cache: Path
) -> Array:
    """Return the slates int64 [R, K] of one point of a front."""
    lists, options = scored.lists[split], {"weight": weight, **front.options}
    if front.method.criterion is not None:
        criterion = front.method.criterion(scored.logits[front.ranker][split], values, **options)
        return methods.compose(criterion, lists.mask, scored.policy.config.slate_length)
    if weight:
        return loop_slates(scored.policy, lists, values, **options)
    path = cache / f"{front.ranker} {split}.npz"  # the same for every law and attribute
    if not path.exists():
        save(path, {"slate": loop_slates(scored.policy, lists, values, **options)})
    return load(path)["slate"]
