"""Values of statistics from the counters of items at the time of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats
from service.engine.features.encoding import Doubles
from service.engine.features.rates import decay, log_odds, prior_rate
from service.engine.features.schema import Feature
from service.engine.features.snapshot import Snapshot

Counters = Mapping[str, tuple[float, float, int]]


class LiveRates:
    """The statistics that a bundle has counts of; S in number.

    Their half-lives and prior rates are those of the bundle's item table, so that equal counts have
    equal values there and here. A statistic with a transform is none of them.

    decay: some counters decay; the values of others stay until an event.
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
        chosen = [
            place
            for place, feature in enumerate(statistics)
            if feature.name in counts and feature.transform == "none"
        ]
        features = [statistics[place] for place in chosen]
        self.names = [feature.name for feature in features]
        self._low, self._high = low[chosen].astype(np.float64), high[chosen].astype(np.float64)
        # The values next to these, which no float32 within the range rounds from.
        self._below = np.nextafter(low[chosen], np.float32(-np.inf)).astype(np.float64)
        self._above = np.nextafter(high[chosen], np.float32(np.inf)).astype(np.float64)
        listed = [counts[name] for name in self.names]
        self._half_life = np.array([c.half_life or math.inf for c in listed], np.float64)
        self._prior = np.array([prior_rate(c.all_likes, c.all_shows) for c in listed], np.float64)
        self._strength = np.array([f.prior_strength for f in features], np.float64)
        self._mean = np.array([feature.mean for feature in features], np.float64)
        self._std = np.array([feature.std for feature in features], np.float64)
        self.decay = bool(np.isfinite(self._half_life).any())

    def counts(self, counters: Sequence[Counters]) -> Doubles:
        """Return shows, likes and time of each counter, float64 [M, 3, S]; NaN without one."""
        counts = np.full((len(counters), 3, len(self.names)), np.nan)
        for row, of_item in enumerate(counters):
            for place, name in enumerate(self.names):
                if name in of_item:
                    counts[row, :, place] = of_item[name]
        return counts

    def values(self, counts: Doubles, now: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return encoded values float32 [M, S], and true for each that was clipped.

        The value is NaN without a counter.

        Args:
            counts: float64 [M, 3, S].
            now: time in ms since 1970 UTC.
        """
        weight = decay(now - counts[:, 2], self._half_life)
        shows, likes = counts[:, 0] * weight, counts[:, 1] * weight
        rates = log_odds(likes, shows, self._prior, self._strength)
        # As encode_numbers does, but for its limit: what is too far from the mean is clipped.
        encoded = (rates - self._mean) / self._std
        clipped = (encoded <= self._below) | (encoded >= self._above)
        within = np.minimum(np.maximum(encoded, self._low), self._high)
        return within.astype(np.float32), clipped
