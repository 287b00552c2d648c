"""Values of statistics from the counters of items at the time of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from service.engine.contract import Floats
from service.engine.features.encoding import LARGEST, Doubles, Mask, encode_numbers
from service.engine.features.rates import decay, log_odds, prior_rate
from service.engine.features.schema import Feature
from service.engine.features.snapshot import Snapshot

Counters = Mapping[str, tuple[float, float, int]]


class LiveRates:
    """The statistics that a bundle has counts of; S in number.

    Their half-lives and prior rates are those of the bundle's item table, so that equal counts have
    equal values there and here.
    """

    def __init__(
        self, statistics: Sequence[Feature], snapshot: Snapshot | None, low: Floats, high: Floats
    ) -> None:
        """Read half-lives and priors.

        Args:
            statistics: features of the schema, fitted.
            snapshot: of the bundle.
            low: least encoded value of each, float32.
            high: largest one.
        """
        counts = {} if snapshot is None else snapshot.statistics
        chosen = [place for place, f in enumerate(statistics) if f.name in counts]
        self._features = [statistics[place] for place in chosen]
        self.names = [feature.name for feature in self._features]
        self._low, self._high = low[chosen, None], high[chosen, None]
        listed = [counts[name] for name in self.names]
        self._half_life = np.array([c.half_life or math.inf for c in listed], np.float64)
        self._prior = np.array([prior_rate(c.all_likes, c.all_shows) for c in listed], np.float64)
        self._strength = np.array([f.prior_strength for f in self._features], np.float64)

    def counts(self, counters: Sequence[Counters]) -> Doubles:
        """Return shows, likes and time of each counter, float64 [M, S, 3]; NaN without one."""
        counts = np.full((len(counters), len(self.names), 3), np.nan)
        for row, of_item in enumerate(counters):
            for place, name in enumerate(self.names):
                if name in of_item:
                    counts[row, place] = of_item[name]
        return counts

    def values(self, counts: Doubles, now: int) -> tuple[Floats, Mask, int]:
        """Return encoded values float32 [M, S], where there is one, and the number of clipped ones.

        Args:
            counts: float64 [M, S, 3].
            now: time in ms since 1970 UTC.
        """
        shows, likes, time = np.moveaxis(counts, 2, 0)
        weight = decay(now - time, self._half_life)
        rates = log_odds(likes * weight, shows * weight, self._prior, self._strength).T
        absent = np.isnan(rates)
        # The encoder refuses what lies this far from the mean, where all values are clipped.
        middle = np.array([[feature.mean] for feature in self._features])
        margin = np.array([[0.5 * LARGEST * feature.std] for feature in self._features])
        rates = np.where(absent, middle, np.clip(rates, middle - margin, middle + margin))
        encoded = np.asarray(encode_numbers(self._features, rates, absent), np.float32)
        clipped = np.clip(encoded, self._low, self._high)
        changed = np.count_nonzero((clipped != encoded) & ~absent)
        return clipped.T, ~absent.T, int(changed)
