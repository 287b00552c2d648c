"""Columns that compare a user's history with each candidate, by kernels over item features.

The user's half of these columns depends on the history alone: it is prepared once per history and
may be cached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from service.engine.contract import Floats, Integers
from service.engine.features.history_cache import HistoryCache
from service.engine.features.kernels import Encoded, KernelStack
from service.engine.features.schema import Feature, History, LabelScale

JOINT = 10  # columns over all kernels together
RIDGE = 8.0  # of the kernel ridge regression, in units of an item's similarity to itself
NEAREST = 10  # most similar history entries that are averaged
SHARES = np.full(NEAREST, 1.0 / NEAREST, np.float32)


def history_width(history: History) -> int:
    """Return the number of columns that `HistoryKernels.compare` returns."""
    # Per kernel: sum, mean and z-score of the mean; then the columns of all kernels together.
    return 3 * len(history.kernels) + JOINT if history.kernels else 0


@dataclass(slots=True)
class PreparedHistory:
    """The user's half of the history columns; H entries, the positive ones first.

    positives  number of positive entries
    order      int64 [H], the place of each entry in the order of time
    surprise   float32 [H], target minus its expectation
    ones       float32 [H] of ones, which sum over the entries
    ridge      float32 [H], weights of a ridge regression of the surprises in the mean kernel
    rows       int64 [H + 1], table rows in ascending order, equal ones by time, behind a -1
    repeats    float32 [2, H + 1], the target of each of these rows, and 1 minus it
    units      per kernel, the unit vectors of the entries as columns, float32 [M, H]
    tokens     per kernel, the tokens of the rows of `units`, None where they are fixed
    """

    positives: int
    order: Integers
    surprise: Floats
    ones: Floats
    ridge: Floats
    rows: Integers
    repeats: Floats
    units: Sequence[Floats]
    tokens: Sequence[Encoded | None]

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        arrays: list[Encoded] = [self.order, self.surprise, self.ones, self.ridge, self.rows]
        arrays += [self.repeats, *self.units, *(each for each in self.tokens if each is not None)]
        return sum(array.nbytes for array in arrays)


class HistoryKernels:
    """Computes the history columns of a candidate list; K kernels.

    compared: the columns that are also standardised within the list; standardised: their places.
    cache: None unless histories are kept.
    """

    def __init__(
        self,
        kernels: KernelStack,
        expected: Callable[[Integers], Floats],
        scale: LabelScale,
    ) -> None:
        """Compare by kernels over item features.

        Args:
            kernels: K kernels.
            expected: returns the expected targets float32 [H] of items by their rows int64 [H].
            scale: scale of the labels in a history.
        """
        self._kernels, self._expected, self._scale = kernels, expected, scale
        joint = 3 * len(kernels)
        self.compared = np.array([*range(1, joint, 3), joint, joint + 3])
        self.standardised = self.compared + 1
        self.cache: HistoryCache[PreparedHistory] | None = None

    def __len__(self) -> int:
        return len(self._kernels)

    def prepare(
        self, rows: Integers, labels: Floats, rates: Floats | None = None
    ) -> PreparedHistory:
        """Return the user's half of H entries, at least one.

        Args:
            rows: row of each entry in the item table, int64 [H].
            labels: float32 [H].
            rates: log-odds of each entry's expected target at its answer, float32 [H]; None: those
                of its item in the table. Only without rates is the result cached.
        """
        if rates is not None:
            return self._prepare(rows, labels, sigmoid(rates))
        if self.cache is None:
            return self._prepare(rows, labels, self._expected(rows))
        key = rows.tobytes() + labels.tobytes()
        prepared = self.cache.get(key)
        if prepared is None:
            prepared = self._prepare(rows, labels, self._expected(rows))
            self.cache.put(key, prepared)
        return prepared

    def prepare_raw(
        self, rows: Integers, labels: Floats, expected: Floats, raw: Sequence[Encoded]
    ) -> PreparedHistory:
        """Return the user's half of H entries, some of which have other features than the table.

        Args:
            rows: row of each entry, int64 [H]; above that of an unknown item for a new item.
            labels: float32 [H].
            expected: expected target of each entry, float32 [H].
            raw: per kernel, raw rows of the entries.
        """
        if self.cache is None:
            return self._prepare(rows, labels, expected, raw)
        # No row is -1, so no key of `prepare` begins like these. All that the result depends on is
        # in the key, and each entry has as many bytes.
        parts = [np.array(-1), rows, labels, expected, *raw]
        key = b"".join(part.tobytes() for part in parts)
        prepared = self.cache.get(key)
        if prepared is None:
            prepared = self._prepare(rows, labels, expected, raw)
            self.cache.put(key, prepared)
        return prepared

    def _prepare(
        self,
        rows: Integers,
        labels: Floats,
        expected: Floats,
        raw: Sequence[Encoded] | None = None,
    ) -> PreparedHistory:
        """raw: None for the rows of the table."""
        targets, liked = self._scale.target(labels), self._scale.is_positive(labels)
        by_row, order = rows.argsort(kind="stable"), (~liked).argsort(kind="stable")
        size = len(rows)
        sorted_rows = np.empty(size + 1, np.int64)
        sorted_rows[0], sorted_rows[1:] = -1, rows.take(by_row)
        repeats = np.zeros((2, size + 1), np.float32)
        repeats[0, 1:] = targets.take(by_row)
        np.subtract(1.0, repeats[0, 1:], out=repeats[1, 1:])
        surprise = (targets - expected).take(order)
        if raw is None:
            units, tokens = self._kernels.of_history(rows.take(order))
        else:
            units, tokens = self._kernels.of_raw_history([each[order] for each in raw])
        ends = [0, *accumulate(each.shape[1] for each in units)]
        # One product of all unit vectors below each other is the sum of the kernels.
        stacked = np.concatenate([each.T for each in units])
        among = stacked.T @ stacked
        among /= len(units)
        among.reshape(-1)[:: size + 1] += RIDGE
        return PreparedHistory(
            positives=int(np.count_nonzero(liked)),
            order=order,
            surprise=surprise,
            ones=np.ones(size, np.float32),
            ridge=np.linalg.solve(among, surprise),
            rows=sorted_rows,
            repeats=repeats,
            units=[stacked[start:end] for start, end in pairwise(ends)],
            tokens=tokens,
        )

    def take(self, index: Integers) -> list[Encoded]:
        """Return each kernel's raw rows of candidates, to be overwritten by inline features."""
        return self._kernels.take(index)

    def compare(
        self,
        history: PreparedHistory,
        index: Integers,
        rows: Sequence[Encoded],
        row_in_history: Integers,
    ) -> Floats:
        """Return the history columns float32 [3 K + JOINT, N], the standardised ones unset.

        Args:
            history: from `prepare`.
            index: row of each candidate in the item table, int64 [N].
            rows: per kernel, raw rows of the candidates; none at all: those of the table.
            row_in_history: the same as `index`, but of a new item the row in the history.
        """
        if rows:
            units = self._kernels.of_rows(rows, history.tokens)
        else:
            units = self._kernels.of_items(index, history.tokens)
        shape = len(units), len(index), len(history.surprise)
        if shape[2] == 1:  # a product with one column rounds by the stride of the rows
            units = [np.ascontiguousarray(each) for each in units]
        similarity = np.empty(shape, np.float32)
        for each, of_history, out in zip(units, history.units, similarity, strict=True):
            np.matmul(each, of_history, out=out)
        kernels, count, size = shape
        columns = np.empty((3 * kernels + JOINT, count), np.float32)
        totals = similarity @ history.surprise
        to_history = np.add.reduce(similarity, axis=0)
        to_history /= kernels
        weights = np.abs(similarity, out=similarity) @ history.ones
        weights += 1.0
        np.divide(totals, math.sqrt(size), out=columns[0 : 3 * kernels : 3])
        np.divide(totals, weights, out=columns[1 : 3 * kernels : 3])
        joint = columns[3 * kernels :]
        # All entries together: a ridge regression in the mean of the kernels, ...
        np.matmul(to_history, history.ridge, out=joint[0])
        # ... and the entries most similar to each candidate.
        joint[2], joint[3] = _nearest(to_history, history)
        _nearest_of_each_kind(to_history, history.positives, joint[5:7])
        place = history.rows.searchsorted(row_in_history, "right") - 1  # of equal rows the last
        repeated = history.rows.take(place) == row_in_history
        joint[7:9] = 0.0
        if repeated.any():
            np.multiply(history.repeats.take(place, axis=1), repeated, out=joint[7:9])
        joint[9] = math.log1p(size) / 4.0
        return columns


def expected_labels(rate: Feature | None, encoded: Floats) -> Floats:
    """Return the expected labels float32 [R] by R encoded values of a rate; one half without."""
    if rate is None:
        return np.full(len(encoded), 0.5, np.float32)
    return sigmoid(encoded * rate.std + rate.mean)


def sigmoid(logits: Floats) -> Floats:
    """Return probabilities float32 of the same shape."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)


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
