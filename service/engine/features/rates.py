"""The arithmetic of statistics: decay of counts, prior rates, log-odds; training and serving."""

from __future__ import annotations

from typing import Any

import numpy as np


def decay(elapsed: Any, half_life: Any) -> Any:
    """Return the weight of a count after `elapsed` ms, a number or float64 [n].

    half_life: in ms, a number or float64 that broadcasts; inf for counts that stay.
    """
    return np.exp2(-np.maximum(elapsed, 0.0) / half_life)


def prior_rate(likes: float, shows: float) -> float:
    """Return likes / shows, at least half a show away from 0 and 1 so that its logit is finite."""
    floor = 0.5 / (shows + 1.0)
    return max(min(likes / shows if shows > 0.0 else 0.0, 1.0 - floor), floor)


def log_odds(likes: Any, shows: Any, prior: Any, strength: Any) -> Any:
    """Return the log-odds of smoothed like rates, elementwise."""
    return np.log((likes + strength * prior) / (shows - likes + strength * (1.0 - prior)))
