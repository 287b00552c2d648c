"""Measure the evaluator on test lists and write docs/reports/evaluator.md.

Slates that the evaluator rates high and the second evaluator (model.study.slates) does not are
reward hacking.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import rankdata, spearmanr

from model.data import labels
from model.data.dataset import Dataset
from model.data.intervals import Interval, interval
from model.data.lists import Lists
from model.learning import checkpoint
from model.learning.policy import Batch, Policy
from model.network.evaluator import Evaluator, discount
from model.network.reasoning import sampler
from model.study.commands import EvaluatorReport, command_line
from model.study.pages import provenance, render
from model.study.plots import plot_evaluator
from model.study.slates import second_evaluator, utilities

Array = np.ndarray[Any, Any]
BINS = 10
RANDOM_SLATES = 64
FIGURES = (  # title on the page, key in the JSON
    ("AUC of all impressions", "auc"),
    ("AUC within lists", "auc within lists"),
    ("Spearman of utility and realised likes, lists", "rank correlation"),
    ("change of a probability by shuffling", "change by shuffling"),
    ("change of the utility by shuffling", "utility change by shuffling"),
)


@torch.no_grad()
def like_probabilities(evaluator: Evaluator, lists: Lists, order: Array) -> Array:
    """Return the like probabilities float [R, L] of slates int [R, L]; -1 = no item."""
    probabilities = []
    for start in range(0, len(lists), 256):
        piece = slice(start, start + 256)
        b = Batch(lists, piece)
        slate = torch.from_numpy(order[piece])
        index = slate.clamp(min=0).unsqueeze(2).expand(-1, -1, evaluator.position.embedding_dim)
        embedded = evaluator.embed(b.numbers, b.tokens).gather(1, index)
        probabilities.append(torch.sigmoid(evaluator(embedded, slate >= 0)))
    return torch.cat(probabilities).numpy()


def auc(score: Array, liked: Array) -> float:
    """Return the area under the ROC curve of scores [n] for positives bool [n]; ties count half."""
    positives = int(liked.sum())
    negatives = len(liked) - positives
    ranks = rankdata(score)[liked].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def calibration(probability: Array, gains: Array) -> tuple[Array, Array, float]:
    """Return mean probability and mean gain by decile [BINS], and expected calibration error."""
    bins = np.array_split(np.argsort(probability, kind="stable"), BINS)
    predicted = np.array([probability[b].mean() for b in bins])
    observed = np.array([gains[b].mean() for b in bins])
    sizes = np.array([len(b) for b in bins]) / len(probability)
    return predicted, observed, float((sizes * np.abs(predicted - observed)).sum())


def binary_cross_entropy(probability: Array, gains: Array) -> Array:
    """Return the elementwise cross-entropy in nats."""
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return -(gains * np.log(clipped) + (1 - gains) * np.log(1 - clipped))


def examine(evaluator: Evaluator, dataset: Dataset, lists: Lists, seed: int) -> dict[str, Any]:
    """Compare an evaluator's predictions on logged lists with the likes; intervals over lists."""
    mask, gains, scale = lists.mask, lists.gains, lists.scale
    liked = scale.is_positive(lists.labels) & mask
    shown_order = np.where(mask, np.arange(lists.longest), -1)
    predictions = like_probabilities(evaluator, lists, shown_order)
    draw = np.random.default_rng(seed)
    random_keys = np.where(mask, draw.random(mask.shape), 2.0)
    shuffled = np.where(np.sort(random_keys, axis=1) < 2.0, np.argsort(random_keys, axis=1), -1)
    shuffled_predictions = like_probabilities(evaluator, lists, shuffled)
    # The probabilities in the shuffled list, moved back to the logged places.
    restored = np.zeros_like(shuffled_predictions)
    np.put_along_axis(restored, np.argsort(random_keys, axis=1), shuffled_predictions, axis=1)
    predicted, observed, calibration_error = calibration(predictions[mask], gains[mask])
    train = dataset.rows.filter(split="train")
    like_rate = train.select(labels.gain(scale).mean()).collect().item()
    losses = {
        "evaluator": binary_cross_entropy(predictions, gains),
        "constant like rate": binary_cross_entropy(np.full(mask.shape, like_rate), gains),
    }
    rate_feature = dataset.featuriser.schema.history.rate
    if rate_feature is not None:
        column = dataset.featuriser.column(rate_feature)
        feature = next(f for f in dataset.featuriser.schema.features if f.name == rate_feature)
        log_odds = lists.numbers[:, :, column] * feature.std + feature.mean
        losses["item like rate"] = binary_cross_entropy(expit(log_odds), gains)
    within = np.array(
        [
            auc(s[m], y[m])
            for s, y, m in zip(predictions, liked, mask, strict=True)
            if 0 < y[m].mean() < 1
        ]
    )
    weight = discount(lists.longest).numpy() * mask
    utility = (predictions * weight).sum(axis=1) / weight.sum(axis=1)
    realised = (gains * weight).sum(axis=1) / weight.sum(axis=1)
    changed = utilities(evaluator, lists, shuffled) - utilities(evaluator, lists, shown_order)
    return {
        "calibration": {"predicted": predicted, "observed": observed, "error": calibration_error},
        "bce": {n: interval((v * mask).sum(1) / mask.sum(1)) for n, v in losses.items()},
        "auc": auc(predictions[mask], liked[mask]),
        "auc within lists": interval(within),
        "rank correlation": float(spearmanr(utility, realised)[0]),
        "change by shuffling": interval(
            (np.abs(restored - predictions) * mask).sum(1) / mask.sum(1)
        ),
        "utility change by shuffling": interval(np.abs(changed)),
        "position": {
            "predicted": (predictions * mask).sum(axis=0) / mask.sum(axis=0),
            "observed": gains.sum(axis=0) / mask.sum(axis=0),
        },
    }


@torch.no_grad()
def agreement(
    first: Evaluator, second: Evaluator, policy: Policy, lists: Lists, seed: int
) -> dict[str, Interval]:
    """Correlate the rankings of a request's slates by both evaluators (Spearman).

    One correlation is over random slates, one over slates that the generator samples.
    """
    length = policy.config.slate_length
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    pick = sampler(policy.config.reasoning.recommend_temperature)
    correlations: dict[str, list[float]] = {"random slates": [], "slates of the generator": []}
    for row in range(min(len(lists), 200)):
        one = lists.take([row])
        b = Batch(one, slice(0, 1))
        random_keys = np.where(one.mask, draw.random((RANDOM_SLATES, lists.longest)), 2.0)
        order = np.argsort(random_keys, axis=1)[:, :length]
        random_slates = torch.from_numpy(
            np.where(np.sort(random_keys, axis=1)[:, :length] < 2.0, order, -1)
        )
        encoded = policy.generator.encode(b.numbers, b.tokens, b.mask)
        budget = policy.config.reasoning.budget
        sampled = policy.decode(encoded, pick, budget, RANDOM_SLATES).slate
        for name, slates in zip(correlations, (random_slates, sampled), strict=True):
            utilities_of_both = [
                e.utility(e.embed(b.numbers, b.tokens).expand(len(slates), -1, -1), slates).numpy()
                for e in (first, second)
            ]
            if all(np.ptp(u) > 0 for u in utilities_of_both):
                correlations[name].append(float(spearmanr(*utilities_of_both)[0]))
    return {name: interval(np.array(values)) for name, values in correlations.items()}


def report(command: EvaluatorReport) -> None:
    """Examine both evaluators of a finished run, then write JSON, page and plot.

    Trains the second evaluator below the run's directory if it is not there.
    """
    if command.page_only:
        write_page(command.out)
        return
    torch.set_num_threads(1)
    trained = checkpoint.load(command.run)
    dataset = Dataset(command.data)
    lists = dataset.lists(["test"])
    first, seed = trained.evaluator, trained.config.seed
    second = second_evaluator(trained.config, dataset, command.run / "second evaluator")
    policy = Policy(trained.config, trained.generator, trained.threshold, trained.share)
    payload: dict[str, Any] = {
        "made": provenance(command_line("evaluator", command)),
        "setting": {"data": command.data.name, "lists": len(lists), "slates": RANDOM_SLATES},
        "evaluator": examine(first, dataset, lists, seed),
        "second evaluator": examine(second, dataset, lists, seed),
        "agreement": agreement(first, second, policy, lists.rankable(), seed),
    }
    command.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(payload, indent=1, default=np.ndarray.tolist)
    (command.out / "evaluator.json").write_text(text + "\n", encoding="utf-8")
    write_page(command.out)


def write_page(out: Path) -> None:
    """Write evaluator.md and the plot from the evaluator.json below `out`."""
    payload = json.loads((out / "evaluator.json").read_text(encoding="utf-8"))
    plot_evaluator(payload, out / "evaluator.png")
    (out / "evaluator.md").write_text(page(payload), encoding="utf-8")


def page(payload: Mapping[str, Any]) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    return render(
        "evaluator.md.jinja",
        made=payload["made"],
        setting=payload["setting"],
        evaluator=payload["evaluator"],
        second=payload["second evaluator"],
        agreement=payload["agreement"],
        figures=FIGURES,
    )
