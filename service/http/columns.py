"""Columns of candidates: arrays of bytes, and columns that are null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from service.engine.features.candidates import as_plain
from service.engine.features.encoding import Column
from service.errors import FieldError, InvalidRequest
from service.http.fields import PackedNumbers

V = TypeVar("V")


def without_nulls(columns: Mapping[str, list[V] | None] | None) -> dict[str, list[V]]:
    """Return the columns that are not null."""
    return {name: values for name, values in (columns or {}).items() if values is not None}


def unpacked(values: list[Any] | PackedNumbers, path: str) -> Column:
    """Return a column as it is, or an array of its bytes.

    path: of the column, in errors. Raises InvalidRequest.
    """
    if not isinstance(values, PackedNumbers):
        return values
    dtype = np.dtype(values.dtype).newbyteorder("<")
    size = math.prod(values.shape) * dtype.itemsize
    if len(values.data) != size:
        rule = f"{size} bytes, as shape {values.shape} of {values.dtype} has"
        raise InvalidRequest.of(FieldError(f"{path}.data", rule, f"{len(values.data)} bytes"))
    return np.frombuffer(values.data, dtype).reshape(values.shape)


def unpacked_numbers(
    column: Sequence[float | None] | PackedNumbers, path: str
) -> Sequence[float | None]:
    """Return a number per candidate as a list.

    path: of the column, in errors. Raises InvalidRequest for an array with NaN or infinity.
    """
    if not isinstance(column, PackedNumbers):
        return column
    values = np.asarray(unpacked(column, path))
    if values.ndim != 1:
        rule = "one dimension, the candidates"
        raise InvalidRequest.of(FieldError(f"{path}.shape", rule, column.shape))
    for index in np.flatnonzero(~np.isfinite(values)).tolist():
        raise InvalidRequest.of(
            FieldError(f"{path}[{index}]", "a finite number", values[index].item())
        )
    return as_plain(values)
