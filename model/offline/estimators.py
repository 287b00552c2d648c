"""Estimators of a policy's value from decisions of another one, and how far they can be trusted.

The value of a policy is the expected sum of the rewards of its slate. A reward may depend on the
items at and before its position, as in a cascade, so the weight of position k is the ratio of the
probabilities of the first k choices (McInerney et al., arXiv 2007.12986). The doubly robust
estimator is that of the cascade (Kiyohara et al., arXiv 2202.01562):

    mean of sum_k w_{1:k} (r_k - Q_k) + w_{1:k-1} E_{a ~ policy} Q_k(a)

where Q_k is the expected sum of the rewards from k on. Probabilities of a prefix are exact, because
every choice was logged; those of an item at a position are not, so there is no independent IPS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.offline.decisions import Decisions, Target

Array = np.ndarray[Any, Any]
LARGEST = 700.0  # nats; exp of more overflows


@dataclass(frozen=True)
class Statistic:
    """A function of sums over lists, so that a resample of users needs only the users' sums.

    sums: float64 [R, M], what each list adds; combine: value [...] of totals [..., M].
    """

    sums: Array
    combine: Callable[[Array], Array]

    @property
    def value(self) -> float:
        """The value on all lists."""
        return float(self.combine(self.sums.sum(axis=0)))


@dataclass(frozen=True)
class Weights:
    """Weights of the positions of logged slates.

    weight: float64 [R, K], at most the clip, 0 behind the end of a slate. before: float64 [R, K],
    that of the choices before each position. clipped: share of the weights that were above the
    clip, [K].
    """

    weight: Array
    before: Array
    clipped: Array

    @property
    def effective_sizes(self) -> Array:
        """Kish's effective number of lists at each position, float64 [K]."""
        squares = (self.weight**2).sum(axis=0)
        total = self.weight.sum(axis=0) ** 2
        return np.divide(total, squares, out=np.zeros_like(total), where=squares > 0)


def prefix_weights(decisions: Decisions, target: Target, clip: float = np.inf) -> Weights:
    """Return the ratio of the probabilities of each prefix under the policy and as logged."""
    ratio = np.exp(np.minimum(np.cumsum(target.logprob - decisions.logprob, axis=1), LARGEST))
    present = decisions.present
    weight = np.where(present, np.minimum(ratio, clip), 0.0)
    before = np.hstack([np.ones((len(weight), 1)), np.minimum(ratio, clip)[:, :-1]])
    above = (present & (ratio > clip)).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    return Weights(weight, np.where(present, before, 0.0), above)


def mean_of(values: Array) -> Statistic:
    """Return the mean of a value [R] per list."""
    return Statistic(
        np.stack([values, np.ones(len(values))], axis=1), lambda sums: sums[..., 0] / sums[..., 1]
    )


def weighted_reward(weight: Array, decisions: Decisions) -> Statistic:
    """Return the mean of the weighted rewards, for weights float64 [R, K] of any kind."""
    return mean_of((weight * decisions.reward).sum(axis=1))


def self_normalised(weights: Weights, decisions: Decisions) -> Statistic:
    """Return prefix IPS whose weights have mean 1 at every position."""
    present, positions = decisions.present.astype(np.float64), decisions.slate.shape[1]
    sums = np.hstack(
        [weights.weight * decisions.reward, weights.weight, present, np.ones((len(present), 1))]
    )

    def combine(totals: Array) -> Array:
        earned, weight, share = (
            totals[..., part * positions : (part + 1) * positions] for part in range(3)
        )
        means = np.divide(earned, weight, out=np.zeros_like(earned), where=weight > 0)
        return np.asarray((means * share).sum(axis=-1) / totals[..., -1])

    return Statistic(sums, combine)


def doubly_robust(
    weights: Weights, decisions: Decisions, target: Target, values: Array
) -> Statistic:
    """Return the doubly robust estimate of the cascade.

    values: float64 [R, K, N], the estimated sum of rewards from a position on for each candidate
    there, after the logged choices before it, by a model that has not seen the list.
    """
    places = np.maximum(decisions.slate, 0)[:, :, None]
    logged = np.take_along_axis(values, places, axis=2)[:, :, 0]
    expected = (target.choice * values).sum(axis=2)
    return mean_of(
        (weights.weight * (decisions.reward - logged) + weights.before * expected).sum(axis=1)
    )


def direct(target: Target, values: Array) -> Statistic:
    """Return the direct method: the estimated sum of rewards at the first position.

    values: as those of `doubly_robust`. No weight corrects their bias.
    """
    return mean_of((target.choice[:, 0] * values[:, 0]).sum(axis=1))
