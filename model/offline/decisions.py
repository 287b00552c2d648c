"""The plain form of logged decisions and of a policy on them: arrays, whatever they come from.

Axes: R lists, K positions of the longest slate, N candidates of the longest list, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.offline.errors import OfflineError, PropensityError

Array = np.ndarray[Any, Any]
ROUNDING = 1e-5  # nats by which a log-probability of float32 may exceed 0


@dataclass(frozen=True)
class Decisions:
    """Slates that a sampling policy chose, and what came of them.

    Args:
        slate: int64 [R, K], the candidate at each position; -1 behind the end of a shorter slate.
        logprob: float64 [R, K], log-probability in nats of each choice under the logging policy
            and its mask, after the choices before it; 0 behind the end.
        reward: float64 [R, K], what each position earned; 0 behind the end.
        user: int64 [R], number of the user. Lists of a user are resampled together.
        features: float [R, N, F] of the candidates, for models of the reward; 0 at padding.

    Raises:
        PropensityError: a propensity is not in (0, 1].
        OfflineError: the arrays do not fit together, or a slate repeats a candidate.
    """

    slate: Array
    logprob: Array
    reward: Array
    user: Array
    features: Array

    def __post_init__(self) -> None:
        shape = self.slate.shape
        if len(shape) != 2 or not self.slate.size:
            raise OfflineError(f"slate: must have lists and positions, got shape {shape}")
        shapes = {"logprob": self.logprob.shape, "reward": self.reward.shape}
        for name, value in {**shapes, "user": (*self.user.shape, shape[1])}.items():
            if value != shape:
                raise OfflineError(f"{name}: must have the shape {shape} of slate, got {value}")
        if self.features.ndim != 3 or len(self.features) != shape[0]:
            raise OfflineError(f"features: must be [R, N, F], got shape {self.features.shape}")
        present = self.present
        if self.slate.max() >= self.features.shape[1] or (np.diff(present.astype(int)) > 0).any():
            raise OfflineError("slate: must hold numbers of candidates, and then -1 to its end")
        ordered = np.sort(np.where(present, self.slate, -1 - np.arange(shape[1])), axis=1)
        if (np.diff(ordered, axis=1) == 0).any():
            row = int(np.argmax((np.diff(ordered, axis=1) == 0).any(axis=1)))
            raise OfflineError(f"slate: list {row} repeats a candidate, {self.slate[row].tolist()}")
        if not np.isfinite(self.reward).all():
            raise OfflineError("reward: must be finite")
        wrong = present & ~((self.logprob <= ROUNDING) & np.isfinite(self.logprob))
        if wrong.any():
            row, position = (int(place[0]) for place in np.nonzero(wrong))
            raise PropensityError(
                f"logprob: propensities must be in (0, 1], list {row} has "
                f"exp({self.logprob[row, position]}) at position {position}"
            )

    @property
    def present(self) -> Array:
        """Positions that slates have, bool [R, K]."""
        return np.asarray(self.slate >= 0)


@dataclass(frozen=True)
class Target:
    """A policy to evaluate, on the lists of some decisions.

    Args:
        name: of the policy.
        choice: float64 [R, K, N], probability of each candidate at each position after the logged
            choices before it; 0 at padding and behind the end of a slate.
        logprob: float64 [R, K], log-probability of the logged choice, -inf if the policy never
            makes it; 0 behind the end.
    """

    name: str
    choice: Array
    logprob: Array

    @classmethod
    def of(cls, name: str, choice: Array, decisions: Decisions) -> Target:
        """Return the policy of these probabilities.

        Raises OfflineError unless those of each position that a slate has sum to 1.
        """
        shape = (*decisions.slate.shape, decisions.features.shape[1])
        if choice.shape != shape:
            raise OfflineError(f"choice of {name}: must have shape {shape}, got {choice.shape}")
        total = choice.sum(axis=2)
        wrong = np.abs(total - decisions.present) > 1e-4
        if wrong.any() or (choice < 0).any():
            row, position = (
                int(place[0]) for place in np.nonzero(wrong | (choice < 0).any(axis=2))
            )
            raise OfflineError(
                f"choice of {name}: probabilities must be at least 0 and sum to 1, list {row} has "
                f"a sum of {total[row, position]} at position {position}"
            )
        places = np.maximum(decisions.slate, 0)[:, :, None]
        chosen = np.take_along_axis(choice, places, axis=2)[:, :, 0]
        with np.errstate(divide="ignore"):  # a policy may never make a logged choice
            logprob = np.where(decisions.present, np.log(chosen), 0.0)
        return cls(name, choice, logprob)
