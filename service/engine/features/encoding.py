"""Encode raw values, and numbers relative to their candidate list."""

from __future__ import annotations

import math
import reprlib
from typing import Any

import numpy as np

from service.engine.contract import Floats
from service.engine.features.schema import Feature

# The network has learnt nothing farther from the train mean, and float32 would overflow.
LARGEST = 1e6


class FeatureError(ValueError):
    """An inline feature that breaks its schema: `path` (as in the request), `rule`, `value`."""

    def __init__(self, path: str, rule: str, value: object) -> None:
        super().__init__(f"{path}: {rule}, got {reprlib.repr(value)}")
        self.path, self.rule, self.value = path, rule, value


def encode_number(feature: Feature, value: Any, path: str) -> float:
    """Return the standardised number; the train mean, 0, for None. Raises FeatureError."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FeatureError(path, "a finite number", value)
    encoded = (feature.transform_value(float(value)) - feature.mean) / feature.std
    if abs(encoded) > LARGEST:
        raise FeatureError(path, f"within {LARGEST:.0e} deviations of the train mean", value)
    return encoded


def encode_vector(feature: Feature, value: Any, path: str) -> Floats:
    """Return a vector float32 [width]; zeros for None. Raises FeatureError."""
    if value is None:
        return np.zeros(feature.width, np.float32)
    rule = f"a list of {feature.width} numbers of size {LARGEST:.0e} at most"
    numbers = value if isinstance(value, (list, tuple)) else ()
    if len(numbers) != feature.width or not all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= LARGEST
        for x in numbers
    ):
        raise FeatureError(path, rule, value)
    return np.array(numbers, np.float32)


def z_scores(rows: Floats) -> Floats:
    """Standardise along the last axis; float32 of the same shape."""
    exact = rows.astype(np.float64)  # a float32 mean of equal numbers can differ from them
    # Without mean() and std(), whose overhead dominates on a short list.
    count = exact.shape[-1]
    exact -= np.add.reduce(exact, axis=-1, keepdims=True) / count
    deviation = np.sqrt(np.add.reduce(exact * exact, axis=-1, keepdims=True) / count)
    return np.asarray(exact / (deviation + 1e-6), np.float32)


def relative_ranks(rows: Floats) -> Floats:
    """Return ranks along each row of [rows, N], from -1, the least, to 1; ties share their mean."""
    twice = np.empty(rows.shape, np.int64)
    for values, ordered, ranks in zip(rows, np.sort(rows, axis=1), twice, strict=True):
        np.add(ordered.searchsorted(values), ordered.searchsorted(values, "right"), out=ranks)
    count = rows.shape[1]
    return np.asarray((twice - count) / max(count, 1), np.float32)


def unit_rows(rows: Floats) -> Floats:
    """Scale each row of [rows, width] to length 1; a zero row stays zero."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norm, 1e-9), np.float32)
