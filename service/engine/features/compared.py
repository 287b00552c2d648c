"""Columns that compare the candidates of one list: list-relative numbers and history columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.engine.contract import Floats
from service.engine.features.encoding import relative_ranks, z_scores
from service.engine.features.history import JOINT, Past, PreparedHistory
from service.engine.features.layout import RELATIVE, Layout, places_of

NEAREST = 10  # most similar history entries that are averaged
SHARES = np.full(NEAREST, 1.0 / NEAREST, np.float32)


@dataclass(frozen=True)
class Places:
    """Columns of `numbers` [N, F]: their number F, and those that are compared.

    sources, targets: of each list-relative number its column, and the RELATIVE columns that follow
    from it; history: the first of the history; kernels: number K of them.
    """

    width: int
    sources: list[int]
    targets: list[int]
    history: int
    kernels: int


# Writes the same columns; returns false for a list that it leaves to numpy.
Native = Callable[[Floats, Past | None], bool]


class ComparedColumns:
    """Writes the columns that depend on the other candidates of a list.

    native: None for numpy.
    """

    def __init__(self, layout: Layout, kernels: int) -> None:
        """kernels: number of history kernels."""
        sources = [source for source, _ in layout.relative]
        targets = [first + column for _, first in layout.relative for column in range(RELATIVE)]
        self.places = Places(layout.numbers_width, sources, targets, layout.history, kernels)
        self.native: Native | None = None
        self._sources, self._targets = places_of(sources), places_of(targets)
        joint = 3 * kernels
        # Columns of the history that are also standardised within the list, and the results.
        self._compared = np.array([*range(1, joint, 3), joint, joint + 3])
        self._standardised = self._compared + 1

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"native": None}  # no other process has the library's memory

    def fill(self, numbers: Floats, past: Past | None = None) -> None:
        """Write the columns of the history and all list-relative ones to numbers [N, F], in place.

        past: None without a history, whose columns are then left as they are.
        """
        if self.native is not None and self.native(numbers, past):
            return
        relative = len(self.places.sources)
        if not relative and past is None:
            return
        # Each column a contiguous row: for few of them the numpy calls cost more than the work.
        compared = 0 if past is None else len(self._compared)
        rows = np.empty((relative + compared, len(numbers)), np.float32)
        if relative:
            rows[:relative] = numbers[:, self._sources].T
        if past is not None:
            history = history_columns(past)
            rows[relative:] = history.take(self._compared, axis=0)
        standard = z_scores(rows)
        if relative:
            values = rows[:relative]
            columns = np.empty((relative, RELATIVE, len(numbers)), np.float32)
            columns[:, 0] = standard[:relative]
            columns[:, 1] = relative_ranks(values)
            best = np.maximum.reduce(values, axis=1, keepdims=True, initial=-np.inf)
            np.subtract(values, best, out=columns[:, 2])
            numbers[:, self._targets] = columns.reshape(RELATIVE * relative, len(numbers)).T
        if past is not None:
            history[self._standardised] = standard[relative:]
            first = self.places.history
            numbers[:, first : first + len(history)] = history.T


def history_columns(past: Past) -> Floats:
    """Return the history columns float32 [3 K + JOINT, N], the standardised ones unset."""
    history, kernels = past.history, len(past.summands) // 2 - 1
    similarity = past.summands[:kernels]
    _, count, size = similarity.shape
    columns = np.empty((3 * kernels + JOINT, count), np.float32)
    totals = similarity @ history.surprise
    to_history = np.add.reduce(similarity, axis=0)
    to_history /= kernels
    weights = np.abs(similarity) @ history.weights[kernels]
    weights += 1.0
    np.divide(totals, math.sqrt(size), out=columns[0 : 3 * kernels : 3])
    np.divide(totals, weights, out=columns[1 : 3 * kernels : 3])
    joint = columns[3 * kernels :]
    # All entries together: a ridge regression in the mean of the kernels, ...
    np.matmul(to_history, history.ridge, out=joint[0])
    # ... and the entries most similar to each candidate.
    joint[2], joint[3] = _nearest(to_history, history)
    _nearest_of_each_kind(to_history, history.positives, joint[5:7])
    place = history.rows.searchsorted(past.row_in_history, "right") - 1  # of equal rows the last
    repeated = history.rows.take(place) == past.row_in_history
    joint[7:9] = 0.0
    if repeated.any():
        np.multiply(history.repeats.take(place, axis=1), repeated, out=joint[7:9])
    joint[9] = age_of(size)
    return columns


def age_of(size: int) -> float:
    """Return the column of a history's size, 0 to about 1."""
    return math.log1p(size) / 4.0


def _nearest(similarity: Floats, history: PreparedHistory) -> tuple[Floats, Floats]:
    """Return the mean similarity of the nearest entries of each row, and their echo, both [N].

    The echo is the sum of their surprises, each times its similarity. similarity: float32 [N, H].
    """
    first = similarity.shape[1] - NEAREST
    if first <= 0:
        return similarity.mean(axis=1), similarity @ history.surprise
    nearest = np.partition(similarity, first, axis=1)[:, first:]
    chosen = similarity >= nearest[:, :1]
    echo = (similarity * chosen) @ history.surprise
    if np.count_nonzero(chosen) > len(chosen) * NEAREST:
        # Others are as near as the last one. Bundles have learnt the choice of argpartition.
        tied = np.count_nonzero(chosen, axis=1) > NEAREST
        by_time = history.order.argsort()
        rows, surprise = similarity[tied][:, by_time], history.surprise[by_time]
        places = np.argpartition(-rows, NEAREST - 1, axis=1)[:, :NEAREST]
        echo[tied] = np.vecdot(np.take_along_axis(rows, places, axis=1), surprise[places])
    return nearest @ SHARES, echo


def _nearest_of_each_kind(similarity: Floats, positives: int, out: Floats) -> None:
    """Write the largest similarity, at least 0, to positive and to other entries to out [2, N].

    similarity: float32 [N, H], the positive entries first.
    """
    if 0 < positives < similarity.shape[1]:
        largest = np.maximum.reduceat(similarity, [0, positives], axis=1)
        np.maximum(largest.T, 0.0, out=out)
    else:
        out[:] = 0.0
        np.maximum.reduce(similarity, axis=1, initial=0.0, out=out[0 if positives else 1])
