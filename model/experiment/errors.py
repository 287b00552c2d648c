"""Refusals of experiments."""

from __future__ import annotations


class ExperimentError(ValueError):
    """An experiment cannot be read; one line with the field or path, the rule and the value."""
