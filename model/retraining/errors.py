"""Refusals of retraining."""

from __future__ import annotations


class RetrainError(ValueError):
    """A run cannot begin or go on; one line with the field or path, the rule and the value."""


class CanaryError(RetrainError):
    """The store has another canary, whose experiment must end first."""


class UnsettledError(RetrainError):
    """No list that a run could learn from has its feedback yet; a run that begins later has."""


class SupersededError(RetrainError):
    """The store serves another active version than the one that the run began with."""
