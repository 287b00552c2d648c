"""Encode raw values, and numbers relative to their candidate list."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats
from service.engine.features.schema import Feature
from service.engine.features.schema_rules import is_finite

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Column = Sequence[Any] | npt.NDArray[Any]

# The network has learnt nothing farther from the train mean, and float32 would overflow.
LARGEST = 1e6


# numpy's log1p differs from that of `math` by a few units in the last place on some processors.
LOG_ERROR = 2.0**-46

FEW_ROWS = 8  # below, ranks of one row after the other are faster


class FeatureError(ValueError):
    """An inline feature that breaks its schema: `path` (as in the request), `rule`, `value`."""

    def __init__(self, path: str, rule: str, value: object) -> None:
        super().__init__(f"{path}: {rule}, got {reprlib.repr(value)}")
        self.path, self.rule, self.value = path, rule, value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, so that a worker process can raise the error to its parent."""
        return type(self), (self.path, self.rule, self.value)


class ColumnError(ValueError):
    """A column that holds a value against its schema, which is not named."""


def encode_number(feature: Feature, value: Any, path: str) -> float:
    """Return the standardised number; the train mean, 0, for None. Raises FeatureError."""
    if value is None:
        return 0.0
    if not is_finite(value):
        raise FeatureError(path, "a finite number", value)
    encoded = standardise(feature, float(value))
    if abs(encoded) > LARGEST:
        raise FeatureError(path, f"within {LARGEST:.0e} deviations of the train mean", value)
    return encoded


def standardise(feature: Feature, value: float) -> float:
    """Return a finite number, transformed and in deviations from the train mean."""
    transformed: float = feature.transform_value(value)
    return (transformed - feature.mean) / feature.std


def encode_vector(feature: Feature, value: Any, path: str) -> Floats:
    """Return a vector float32 [width]; zeros for None. Raises FeatureError."""
    if value is None:
        return np.zeros(feature.width, np.float32)
    try:
        vector: Floats = encode_vectors(feature, [value])[0]
        return vector
    except ColumnError:
        rule = f"a list of {feature.width} numbers of size {LARGEST:.0e} at most"
        raise FeatureError(path, rule, value) from None


def encode_vectors(feature: Feature, values: Column) -> Floats:
    """Return vectors float32 [R, width] of R lists, or of an array [R, width]. Raises ColumnError.

    None is no vector.
    """
    if isinstance(values, np.ndarray):
        numbers = values
        if numbers.ndim != 2 or numbers.shape[1] != feature.width or numbers.dtype.kind != "f":
            raise ColumnError(feature.name)
    else:
        lists = (list, tuple, np.ndarray)
        if not all(isinstance(one, lists) and len(one) == feature.width for one in values):
            raise ColumnError(feature.name)
        flat = [one.tolist() if isinstance(one, np.ndarray) else one for one in values]
        numbers, missing = read_numbers(list(chain.from_iterable(flat)))
        if missing is not None:
            raise ColumnError(feature.name)
        numbers = numbers.reshape(len(values), feature.width)
    if not (np.abs(numbers) <= LARGEST).all():  # nor any NaN
        raise ColumnError(feature.name)
    return numbers.astype(np.float32)


def read_numbers(values: Sequence[Any]) -> tuple[Doubles, Mask | None]:
    """Return numbers as float64, with 0 for None, and where None is, if anywhere.

    Raises ColumnError for a value that is no number; a boolean is none.
    """
    types = set(map(type, values))
    missing = None
    if type(None) in types:
        missing = np.fromiter((value is None for value in values), np.bool_, len(values))
        values = [0.0 if value is None else value for value in values]
        types.remove(type(None))
    if not types <= {float, int} and not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    ):
        raise ColumnError
    try:
        return np.fromiter(values, np.float64, len(values)), missing
    except OverflowError:  # an integer that no float64 holds
        raise ColumnError from None


def encode_numbers(features: Sequence[Feature], values: Doubles, missing: Mask | None) -> Doubles:
    """Return float64 [C, R], in whose rows `encode_number` of each feature is applied to R values.

    As float32 the result equals that of `encode_number` in every bit. Where `missing`, it is
    undefined. Raises ColumnError for a value that is not finite or too far from the mean.
    """
    mean = np.array([[feature.mean] for feature in features])
    std = np.array([[feature.std] for feature in features])
    logarithmic: list[int] | slice
    logarithmic = [row for row, feature in enumerate(features) if feature.transform == "log"]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        transformed = values
        if logarithmic:
            if len(logarithmic) == len(features):
                logarithmic = slice(None)  # a view, where a list makes copies
            part = values[logarithmic]
            if not np.isfinite(part).all():  # the logarithm of -inf would be that of 0
                raise ColumnError
            transformed = values.copy(order="K")
            transformed[logarithmic] = np.log1p(np.where(part < 0.0, 0.0, part))
        encoded: Doubles = (transformed - mean) / std
        if logarithmic:
            part = encoded[logarithmic]
            margin = np.abs(transformed[logarithmic]) + np.abs(mean[logarithmic])
            margin *= LOG_ERROR / np.abs(std[logarithmic])
            unsure = _is_unsure(part, margin)
            rows = np.arange(len(features))[logarithmic].tolist()
            for row, column in zip(*(axis.tolist() for axis in unsure.nonzero()), strict=True):
                value = float(values[rows[row], column])
                encoded[rows[row], column] = standardise(features[rows[row]], value)
        broken = ~(np.abs(encoded) <= LARGEST)  # as NaN is too
    if missing is not None:
        broken &= ~missing
    if broken.any():
        raise ColumnError
    return encoded


def _is_unsure(encoded: Doubles, margin: Doubles) -> Mask:
    """Tell where an error of `margin` could change the float32, or its distance to LARGEST."""
    low, high = (encoded - margin).astype(np.float32), (encoded + margin).astype(np.float32)
    # As integers, because 0 and -0 are equal but have other bits.
    unsure: Mask = low.view(np.int32) != high.view(np.int32)
    unsure |= np.abs(np.abs(encoded) - LARGEST) <= margin
    return unsure


def z_scores(rows: Floats) -> Floats:
    """Standardise along the last axis; float32 of the same shape."""
    exact = rows.astype(np.float64)  # a float32 mean of equal numbers can differ from them
    # Without mean() and std(), whose overhead dominates on a short list.
    count = exact.shape[-1]
    exact -= np.add.reduce(exact, axis=-1, keepdims=True) / count
    deviation = np.sqrt(np.vecdot(exact, exact) / count)
    deviation += 1e-6
    return np.asarray(exact / deviation[..., None], np.float32)


def relative_ranks(rows: Floats) -> Floats:
    """Return ranks along each row of [rows, N], from -1, the least, to 1; ties share their mean."""
    height, count = rows.shape
    if height < FEW_ROWS or not count:
        twice = np.empty(rows.shape, np.int64)
        for values, ordered, ranks in zip(rows, np.sort(rows, axis=1), twice, strict=True):
            np.add(ordered.searchsorted(values), ordered.searchsorted(values, "right"), out=ranks)
        relative = twice.astype(np.float32)  # exact, as is the difference
        relative -= count
        relative /= max(count, 1)
        return relative
    order = rows.argsort(axis=1)
    order += np.arange(0, height * count, count)[:, None]
    order = order.ravel()
    ordered = rows.ravel()[order]
    first = np.ones(height * count, np.bool_)  # of a run of equal numbers
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    first[::count] = True
    starts = first.nonzero()[0]
    stops = np.append(starts[1:], height * count)
    twice = np.empty(height * count, np.int64)
    twice[order] = (starts + stops)[first.cumsum() - 1]
    twice = twice.reshape(height, count) - np.arange(0, 2 * height * count, 2 * count)[:, None]
    return np.asarray((twice - count) / count, np.float32)
