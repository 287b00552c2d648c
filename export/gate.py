"""Choose the entropy threshold of a bundle: the fewest reasoning steps that validation can justify.

Thresholds are quantiles of the entropies on validation lists without reasoning, from every step to
none. By the one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984) the
bundle gets the one with the fewest steps among those whose quality is not below the best by more
than the standard error of the paired difference.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from model.data.dataset import Dataset
from model.data.intervals import FEWEST
from model.data.lists import Lists
from model.data.metrics import slate_metrics
from model.learning.checkpoint import Trained
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy
from model.learning.validation import selected_metric
from service.engine.session import Session

Array = np.ndarray[Any, Any]
QUANTILES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
MOST_LISTS = 2_000  # validation lists, drawn at random from more
TIMED_LISTS = 48
LISTS_AT_ONCE = 256
ALWAYS = 0.0  # threshold of quantile 0: only a choice without an alternative has no entropy
BY_RULE, BY_OPTION = "one standard error", "--entropy-quantile"


@dataclass(frozen=True)
class Gate:
    """Thresholds of a trained generator, measured on validation lists, and the one chosen."""

    metric: str
    quantiles: tuple[float, ...]
    thresholds: tuple[float, ...]  # nats
    quality: Array  # metric of each threshold and list, [T, R]
    steps: Array  # mean reasoning steps a slate, [T]
    chosen: int
    rule: str  # BY_RULE or BY_OPTION
    most_steps: int  # of a slate

    def describe(self, milliseconds: Array) -> dict[str, Any]:
        """Return what the manifest and `/info` say of the gate.

        Args:
            milliseconds: median time of one list behind each threshold, float [T].
        """
        below, error = differences(self.quality)
        return {
            "answer": self.answer(),
            "metric": self.metric,
            "split": "valid",
            "lists": self.quality.shape[1],
            "rule": self.rule,
            "quantile": self.quantiles[self.chosen],
            "steps": round(float(self.steps[self.chosen]), 4),
            "curve": [
                {
                    "quantile": quantile,
                    "threshold": round(self.thresholds[place], 6),
                    "steps": round(float(self.steps[place]), 4),
                    "quality": round(float(self.quality[place].mean()), 6),
                    "below_best": round(float(below[place]), 6),
                    "standard_error": round(float(error[place]), 6),
                    "milliseconds": round(float(milliseconds[place]), 3),
                }
                for place, quantile in enumerate(self.quantiles)
            ],
        }

    def answer(self) -> str:
        """Return the steps that the gate takes, and what they are worth, in a sentence or two."""
        mean = self.quality.mean(axis=1)
        none, best = int(self.steps.argmin()), int(mean.argmax())
        worth = (
            f"{self.metric} on {self.quality.shape[1]} validation lists is {mean[self.chosen]:.4f}"
        )
        taken = self._taken(self.chosen)
        below, error = differences(self.quality)
        compared = (
            f"{mean[none]:.4f} without a step, and at best {mean[best]:.4f} with "
            f"{self.steps[best]:.1f} steps"
        )
        if self.rule == BY_OPTION:
            by_rule = self._taken(one_standard_error(self.quality, self.steps))
            return (
                f"By {BY_OPTION} the gate takes {taken}; {worth}, {compared}. {self._earned()}"
                f"The rule of one standard error would take {by_rule}."
            )
        reason = (
            "no fewer steps are as good but for the standard error"
            if self.chosen == best
            else f"the fewest steps that are below the best ({below[self.chosen]:.4f}) by no more "
            f"than the standard error ({error[self.chosen]:.4f})"
        )
        return f"The gate takes {taken}; {worth}, {compared}: {reason}."

    def _earned(self) -> str:
        """Compare the chosen threshold with none, in a sentence; nothing for no step."""
        none = int(self.steps.argmin())
        if self.chosen == none:
            return ""
        paired = self.quality[self.chosen] - self.quality[none]
        gain, error = paired.mean(), paired.std(ddof=1) / math.sqrt(len(paired))
        verdict = "more than it" if gain > error else "nothing that can be measured"
        return (
            f"The steps add {gain:+.4f} with a standard error of {error:.4f}: they earn {verdict}. "
        )

    def _taken(self, place: int) -> str:
        """Describe the mean steps of the threshold number `place`."""
        if not self.steps[place]:
            return "no reasoning step"
        return f"{self.steps[place]:.1f} of {self.most_steps} reasoning steps a slate"


def choose_gate(trained: Trained, data: Path, quantile: float | None = None) -> Gate | None:
    """Measure the thresholds on the validation lists of a data set, and choose one.

    Args:
        quantile: chooses this quantile of the entropies instead of the rule.

    Returns None for a generator without reasoning. With fewer than FEWEST lists, of which no
    standard error says much, the quantile of the configuration is chosen as if by `quantile`.
    """
    if not trained.config.reasoning.budget:
        return None
    dataset = Dataset(data, featuriser=trained.featuriser)
    lists = _sample(dataset.lists(["valid"], trained.config.train_lists).rankable())
    if not len(lists):
        return None
    if len(lists) < FEWEST and quantile is None:
        quantile = trained.config.reasoning.entropy_quantile
    quantiles = tuple(sorted({*QUANTILES, *([] if quantile is None else [quantile])}))
    policy = Policy(trained.config, trained.generator, trained.threshold)
    entropies = policy.entropies(lists)
    quality, steps, thresholds = [], [], []
    for share in tqdm(quantiles, "gate", disable=None, leave=False):
        policy.threshold = threshold_of(entropies, share, trained.config.max_candidates)
        decoded = policy.greedy_slates(lists, trained.config.reasoning.budget)
        thresholds.append(policy.threshold)
        quality.append(_quality(trained, lists, torch.cat([d.slate for d in decoded])))
        steps.append(float(torch.cat([d.steps for d in decoded]).sum(dim=1).double().mean()))
    values, means = np.array(quality), np.array(steps)
    by_rule = quantile is None
    return Gate(
        metric=selected_metric(trained.config, lists.scale),
        quantiles=quantiles,
        thresholds=tuple(thresholds),
        quality=values,
        steps=means,
        chosen=one_standard_error(values, means) if by_rule else quantiles.index(quantile or 0.0),
        rule=BY_RULE if by_rule else BY_OPTION,
        most_steps=trained.config.slate_length * trained.config.reasoning.budget,
    )


def one_standard_error(quality: Array, steps: Array) -> int:
    """Return the threshold with the fewest steps that is as good as the best but for its error.

    Args:
        quality: of each threshold and list, [T, R].
        steps: mean of each threshold, [T].
    """
    below, error = differences(quality)
    good = np.flatnonzero(below <= error)
    return int(good[steps[good].argmin()])


def differences(quality: Array) -> tuple[Array, Array]:
    """Return mean and standard error of the paired difference from the best threshold, each [T]."""
    best = quality[quality.mean(axis=1).argmax()]
    paired = best - quality
    return paired.mean(axis=1), paired.std(axis=1, ddof=1) / math.sqrt(quality.shape[1])


def threshold_of(entropies: torch.Tensor, quantile: float, longest: int) -> float:
    """Return the threshold (nats) above which a share of 1 - quantile of the entropies lies.

    That of quantile 1 is above the entropy of any list of at most `longest` candidates, so that the
    gate never opens.
    """
    if quantile == 1.0:
        return math.log(max(longest, 2)) + 0.01
    return float(torch.quantile(entropies, quantile)) if quantile else ALWAYS


def describe_gate(session: Session, gate: Gate, data: Path) -> dict[str, Any]:
    """Describe the gate with the median milliseconds of the graph for one list per threshold.

    The thresholds take turns on every list, so that a busy moment slows all of them.
    """
    lists = islice(Dataset(data).impressions(["valid"]), TIMED_LISTS)
    rows = [session.row(impression.request) for impression in lists]
    times = np.zeros((len(rows), len(gate.thresholds)))
    for number, row in enumerate(rows):
        for place, threshold in enumerate(gate.thresholds):
            gated = dataclasses.replace(row, entropy_threshold=threshold)
            began = time.perf_counter()
            session.run([gated])
            times[number, place] = 1e3 * (time.perf_counter() - began)
    return gate.describe(np.median(times, axis=0))


def _sample(lists: Lists) -> Lists:
    """Return the lists, or MOST_LISTS of them, always the same ones."""
    if len(lists) <= MOST_LISTS:
        return lists
    drawn = np.random.default_rng(0).choice(len(lists), MOST_LISTS, replace=False)
    return lists.take(np.sort(drawn))


@torch.no_grad()
def _quality(trained: Trained, lists: Lists, slate: torch.Tensor) -> Array:
    """Return the metric that selected the epoch, [R], of slates int64 [R, K]."""
    config, metric = trained.config, selected_metric(trained.config, lists.scale)
    if config.selection == "ndcg@10":
        return slate_metrics(slate.numpy(), lists.labels, lists.scale)[metric]
    parts = []
    for start in range(0, len(lists), LISTS_AT_ONCE):
        rows = slice(start, start + LISTS_AT_ONCE)
        batch = Batch(lists, rows)
        if metric == "objective":
            of_lists = Objective(config, trained.featuriser, trained.evaluator).of(batch)
            parts.append(of_lists.value(slate[rows].unsqueeze(1)).squeeze(1))
        else:
            embedded = trained.evaluator.embed(batch.numbers, batch.tokens)
            parts.append(trained.evaluator.utility(embedded, slate[rows]))
    return torch.cat(parts).numpy()
