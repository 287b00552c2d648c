"""Refusals of the comparison."""

from __future__ import annotations


class OfflineError(ValueError):
    """The logged decisions cannot be used; one line with the field, the rule and the value."""


class PropensityError(OfflineError):
    """A logged propensity is not in (0, 1]."""


class SkewError(OfflineError):
    """Replaying the logging bundle does not give the logged log-probabilities."""
