"""Compare two policies on the same decisions: estimates, intervals, controls and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from model.offline.bootstrap import RESAMPLES, resample
from model.offline.decisions import Decisions, Target
from model.offline.errors import OfflineError
from model.offline.estimators import (
    Statistic,
    Weights,
    direct,
    doubly_robust,
    mean_of,
    prefix_weights,
    self_normalised,
)
from model.offline.values import FOLDS, cross_fit

Array = np.ndarray[Any, Any]
DOUBLY_ROBUST = "cascade doubly robust"
ESTIMATORS = (DOUBLY_ROBUST, "prefix self-normalised IPS", "direct method")
CLIP = 100.0
FEWEST_EFFECTIVE = 50.0  # lists at a position; of fewer, an interval is not worth its name
MOST_CLIPPED = 0.01  # share of the weights of a position; more would bias the estimates
RISK = 0.05  # of a false alarm among all controls together, and outside of an interval
VERDICTS = ("better", "worse", "cannot tell")


@dataclass(frozen=True)
class Estimate:
    """Value of each policy and the difference new - old, each [value, low, high] at 95 %.

    deviation: that of the difference over resamples of users.
    """

    old: list[float]
    new: list[float]
    difference: list[float]
    deviation: float


@dataclass(frozen=True)
class Control:
    """The weights of one policy at one position.

    mean: [mean, low, high]; the interval holds 1 unless propensities are wrong, with a risk of
    RISK for all positions and policies together. effective: Kish's number of lists; clipped: share.
    """

    policy: str
    position: int
    mean: list[float]
    effective: float
    clipped: float

    @property
    def passes(self) -> bool:
        """True if the mean weight may be 1."""
        return self.mean[1] <= 1.0 <= self.mean[2]


@dataclass(frozen=True)
class Comparison:
    """The outcome of one comparison.

    verdict: of the new policy, by the doubly robust estimate of the difference; reasons: why
    nothing can be told although an interval may exclude 0.
    """

    old: str
    new: str
    lists: int
    users: int
    estimates: dict[str, Estimate]
    controls: list[Control]
    verdict: str
    reasons: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return asdict(self)


def compare(
    decisions: Decisions,
    old: Target,
    new: Target,
    clip: float = CLIP,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Estimate both policies and their difference. Raises OfflineError for too few users.

    Args:
        clip: largest weight.
        resamples: of users, for the intervals.
    """
    users = len(np.unique(decisions.user))
    if users < FOLDS:
        raise OfflineError(f"user: must have at least {FOLDS} users, got {users}")
    weights = {"old": prefix_weights(decisions, old, clip)}
    weights["new"] = prefix_weights(decisions, new, clip)
    statistics: list[Statistic] = []
    for side, target in (("old", old), ("new", new)):
        values = cross_fit(decisions, target, seed)
        statistics += [
            doubly_robust(weights[side], decisions, target, values),
            self_normalised(weights[side], decisions),
            direct(target, values),
        ]
    names = {"old": old.name, "new": new.name}
    of_weights = [
        mean_weight(each.weight[:, k], decisions.present[:, k])
        for each in weights.values()
        for k in range(decisions.slate.shape[1])
    ]
    drawn = resample([*statistics, *of_weights], decisions.user, resamples, seed)
    count = len(ESTIMATORS)
    estimates = {
        name: estimate_of(statistics[n], statistics[count + n], drawn[n], drawn[count + n])
        for n, name in enumerate(ESTIMATORS)
    }
    controls = controls_of(weights, names, of_weights, drawn[2 * count :])
    verdict, reasons = judge(estimates[DOUBLY_ROBUST], controls)
    return Comparison(
        old.name, new.name, len(decisions.slate), users, estimates, controls, verdict, reasons
    )


def mean_weight(weight: Array, present: Array) -> Statistic:
    """Return the mean weight [R] over the lists that have the position."""
    mean = mean_of(weight)
    return Statistic(np.stack([weight, present.astype(np.float64)], axis=1), mean.combine)


def estimate_of(old: Statistic, new: Statistic, drawn_old: Array, drawn_new: Array) -> Estimate:
    """Return values and intervals from the resamples [resamples] of two statistics."""
    return Estimate(
        ends(old.value, drawn_old),
        ends(new.value, drawn_new),
        ends(new.value - old.value, drawn_new - drawn_old),
        float((drawn_new - drawn_old).std(ddof=1)),
    )


def ends(value: float, drawn: Array) -> list[float]:
    """Return a value and the interval of its resamples: [value, low, high]."""
    low, high = np.quantile(drawn, [RISK / 2, 1 - RISK / 2])
    return [value, float(low), float(high)]


def controls_of(
    weights: dict[str, Weights], names: dict[str, str], of_weights: list[Statistic], drawn: Array
) -> list[Control]:
    """Return the control of each policy and position; drawn [controls, resamples]."""
    # Quantiles this far out would be noise, so that the deviation gives the interval.
    width = NormalDist().inv_cdf(1 - RISK / (2 * len(of_weights)))
    controls: list[Control] = []
    for side, each in weights.items():
        for k, effective in enumerate(each.effective_sizes):
            mean, deviation = of_weights[len(controls)].value, drawn[len(controls)].std(ddof=1)
            reach = width * float(deviation) + 1e-6  # a policy against itself has no deviation
            controls.append(
                Control(
                    names[side], k, [mean, mean - reach, mean + reach],
                    float(effective), float(each.clipped[k]),
                )
            )  # fmt: skip
    return controls


def judge(estimate: Estimate, controls: list[Control]) -> tuple[str, list[str]]:
    """Return the verdict on the new policy, and the reasons for which nothing can be told."""
    reasons = []
    for control in controls:
        place = f"{control.policy}, position {control.position}"
        if not control.passes:
            reasons.append(
                f"{place}: the mean weight is {control.mean[0]:.3f}, with an interval of "
                f"{control.mean[1]:.3f} to {control.mean[2]:.3f} that must hold 1"
            )
        if control.effective < FEWEST_EFFECTIVE:
            reasons.append(
                f"{place}: the effective sample size must be at least {FEWEST_EFFECTIVE:g} lists, "
                f"got {control.effective:.1f}; explore more, or compare policies that differ less"
            )
        if control.clipped > MOST_CLIPPED:
            reasons.append(
                f"{place}: at most {MOST_CLIPPED:.0%} of the weights may be clipped, got "
                f"{control.clipped:.1%}"
            )
    _, low, high = estimate.difference
    if reasons:
        return "cannot tell", reasons
    if low > 0.0:
        return "better", []
    if high < 0.0:
        return "worse", []
    return "cannot tell", [f"the interval of the difference, {low:.4f} to {high:.4f}, holds 0"]
