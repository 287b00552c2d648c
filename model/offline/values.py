"""Estimate the sum of rewards that follows a choice, fitted on the log alone.

The model has rewarded no policy, so no policy has learned to exploit its errors. Users are dealt to
folds, and the lists of a fold are estimated by a model of the others: the doubly robust estimate
needs that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from model.offline.decisions import Decisions, Target

Array = np.ndarray[Any, Any]
FOLDS = 5
RIDGE = 10.0  # penalty of standardised columns, in lists
DECAY = 0.7  # of earlier items in the summary of a prefix


class ValueModel(Protocol):
    """Estimates the sum of rewards from a position on; anything with these methods may serve."""

    def fit(self, decisions: Decisions, target: Target, rows: Array) -> None:
        """Fit on the lists of some rows int64 [r]."""

    def estimate(self, decisions: Decisions, rows: Array) -> Array:
        """Return estimates float64 [r, K, N] for each candidate at each position."""


class LinearValue:
    """Fitted Q evaluation: one ridge regression per position, backwards from the last.

    A candidate's estimate is linear in its features, in their products with those of the previous
    item and of the discounted sum of all items before, and in the previous item's own features.
    """

    def __init__(self, ridge: float = RIDGE) -> None:
        self.ridge = ridge
        self._mean: Array = np.zeros(0)
        self._scale: Array = np.ones(0)
        self._coefficients: list[Array] = []

    def fit(self, decisions: Decisions, target: Target, rows: Array) -> None:
        """Fit on the lists of some rows int64 [r]."""
        features, present = decisions.features[rows], decisions.present[rows]
        slate = np.maximum(decisions.slate[rows], 0)
        chosen = np.take_along_axis(features, slate[:, :, None], axis=1)
        observed = chosen[present]
        self._mean, self._scale = observed.mean(axis=0), observed.std(axis=0)
        self._scale = np.where(self._scale > 1e-9, self._scale, 1.0)
        chosen = self._standardised(chosen)
        positions = slate.shape[1]
        coefficients: list[Array] = [np.zeros(0)] * positions
        following = np.zeros(len(rows))
        for k in reversed(range(positions)):
            previous, before = prefix_of(chosen, k)
            columns = np.hstack(
                [chosen[:, k], chosen[:, k] * previous, chosen[:, k] * before, previous,
                 np.ones((len(rows), 1))]
            )  # fmt: skip
            coefficients[k] = self._solve(
                columns[present[:, k]],
                (decisions.reward[rows, k] + following)[present[:, k]],
            )
            estimates = self._linear(features, previous, before, coefficients[k])
            following = (target.choice[rows, k] * estimates).sum(axis=1)
        self._coefficients = coefficients

    def estimate(self, decisions: Decisions, rows: Array) -> Array:
        """Return estimates float64 [r, K, N] for each candidate at each position."""
        features, slate = decisions.features[rows], np.maximum(decisions.slate[rows], 0)
        chosen = self._standardised(np.take_along_axis(features, slate[:, :, None], axis=1))
        parts = [
            self._linear(features, *prefix_of(chosen, k), coefficients)
            for k, coefficients in enumerate(self._coefficients)
        ]
        return np.where(decisions.present[rows][:, :, None], np.stack(parts, axis=1), 0.0)

    def _standardised(self, features: Array) -> Array:
        return np.asarray((features - self._mean) / self._scale)

    def _linear(
        self, features: Array, previous: Array, before: Array, coefficients: Array
    ) -> Array:
        """Return the estimate float64 [r, N] of every candidate, features [r, N, F] as logged."""
        alone, near, far, context = np.split(coefficients[:-1], 4)
        # Standardising the slopes in place of the features spares a copy of all candidates.
        slope = (alone + near * previous + far * before) / self._scale
        constant = previous @ context + coefficients[-1] - slope @ self._mean
        return np.asarray(np.einsum("rnf,rf->rn", features, slope) + constant[:, None])

    def _solve(self, columns: Array, sums: Array) -> Array:
        penalty = np.full(columns.shape[1], self.ridge)
        penalty[-1] = 1e-6  # of the intercept, for positions that no list has
        gram = columns.T @ columns + np.diag(penalty)
        return np.asarray(np.linalg.solve(gram, columns.T @ sums))


def prefix_of(chosen: Array, position: int) -> tuple[Array, Array]:
    """Return the previous item's features and the discounted sum of all before, float64 [r, F]."""
    before = np.zeros_like(chosen[:, 0])
    for k in range(position):
        before = DECAY * before + chosen[:, k]
    return (chosen[:, position - 1] if position else np.zeros_like(before)), before


def cross_fit(
    decisions: Decisions,
    target: Target,
    seed: int,
    make: Callable[[], ValueModel] = LinearValue,
    folds: int = FOLDS,
) -> Array:
    """Return estimates float64 [R, K, N], each by a model without the lists of its user's fold."""
    users, number = np.unique(decisions.user, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(users))[number] % folds
    estimates = np.zeros(target.choice.shape)
    for part in range(folds):
        inside, outside = np.flatnonzero(fold == part), np.flatnonzero(fold != part)
        if len(inside) and len(outside):
            model = make()
            model.fit(decisions, target, outside)
            estimates[inside] = model.estimate(decisions, inside)
    return estimates
