"""Always-valid intervals for the difference of two means: they may be read at any time.

The interval is that of the mixture sequential probability ratio test with a normal mixture of
deviation `effect` (Johari, Koomen, Pekelis and Walsh, "Always Valid Inference", Operations Research
70(3), 2022, arXiv 1512.04922). For an estimate with variance V it reaches

    sqrt(2 V (V + effect^2) / effect^2 * log(sqrt((V + effect^2) / V) / risk))

to both sides. The covariance of the differences of means at two moments is the variance at the
later one, for any sizes of the arms that do not depend on outcomes, so the difference moves like a
Brownian motion in the time 1 / V, and all intervals together hold the truth with probability
1 - risk. Variances are estimated, which is right from some hundred units on (Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52(6), 2024, arXiv 2103.06476).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Trajectory:
    """A difference and its interval after each unit, float64 [U]; NaN before both arms have two.

    users: int64 [U, 2], units of each arm so far; means: float64 [U, 2].
    """

    users: Array
    means: Array
    difference: Array
    low: Array
    high: Array


def reach(variance: Array, effect: float, risk: float) -> Array:
    """Return how far the interval reaches to both sides of estimates of these variances, above 0.

    Args:
        effect: deviation of the mixture; the interval is narrowest for differences of this size.
        risk: probability that any of the intervals misses the truth.
    """
    mixture = effect**2
    evidence = 0.5 * np.log((variance + mixture) / variance) - np.log(risk)
    return np.asarray(np.sqrt(2.0 * variance * (variance + mixture) / mixture * evidence))


def difference_over_time(values: Array, is_canary: Array, effect: float, risk: float) -> Trajectory:
    """Return the difference of means, canary - active, after each unit.

    Each mean has a variance of sample variance / n + 1 / n^2. The last term is that of one more
    unit that differs by 1, without which a rare outcome that has not come yet would be certain.

    Args:
        values: float64 [U], outcomes of units in the order in which they were complete.
        is_canary: bool [U].
    """
    centre = values.mean() if len(values) else 0.0  # or squares would lose digits
    counts, means, variances = [], [], []
    for arm in (~is_canary, is_canary):
        count = np.cumsum(arm)
        shifted = np.where(arm, values - centre, 0.0)
        total, squares = np.cumsum(shifted), np.cumsum(shifted**2)
        with np.errstate(divide="ignore", invalid="ignore"):  # NaN before the arm has two units
            mean = total / count
            spread = np.maximum(squares - count * mean**2, 0.0) / (count - 1)
            variances.append(np.where(count > 1, spread / count + 1.0 / count**2, np.nan))
        counts.append(count)
        means.append(mean + centre)
    difference = means[1] - means[0]
    width = reach(variances[0] + variances[1], effect, risk)
    return Trajectory(
        np.stack(counts, axis=1), np.stack(means, axis=1), difference,
        difference - width, difference + width,
    )  # fmt: skip


def share_over_time(is_member: Array, share: float, effect: float, risk: float) -> Trajectory:
    """Return the observed share of members minus `share`, after each unit, with its interval."""
    count = np.arange(1, len(is_member) + 1)
    mean = np.cumsum(is_member) / count
    difference = mean - share
    width = reach(share * (1.0 - share) / count + 1.0 / count**2, effect, risk)
    means = np.stack([np.full(len(mean), share), mean], axis=1)
    return Trajectory(
        np.stack([count, count], axis=1), means, difference, difference - width, difference + width
    )
