"""The similarity of a user's history to each candidate, by kernels over item features.

The user's half of a comparison depends on the history alone: it is prepared once per history and
may be cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.contract import Floats, Integers
from service.engine.features.history_cache import HistoryCache
from service.engine.features.kernels import Encoded, KernelStack
from service.engine.features.schema import Feature, History, LabelScale

JOINT = 10  # columns over all kernels together
RIDGE = 8.0  # of the kernel ridge regression, in units of an item's similarity to itself


def history_width(history: History) -> int:
    """Return the number of columns that compare a history with a candidate."""
    # Per kernel: sum, mean and z-score of the mean; then the columns of all kernels together.
    return 3 * len(history.kernels) + JOINT if history.kernels else 0


@dataclass(slots=True)
class PreparedHistory:
    """The user's half of the history columns; H entries, the positive ones first.

    positives  number of positive entries
    order      int64 [H], the place of each entry in the order of time
    weights    float32 [2 K + 2, H], of the sums over entries (service.engine.features.compared):
               K times `surprise`, K times ones, `ridge` and `surprise`
    surprise   float32 [H], target minus its expectation
    ridge      float32 [H], weights of a ridge regression of the surprises in the mean kernel
    figures    int64 [2, H + 1], the memory of `rows` and `repeats`
    rows       int64 [H + 1], table rows in ascending order, equal ones by time, behind a -1
    repeats    float32 [2, H + 1], the target of each of `rows`, and 1 minus it
    units      per kernel, the unit vectors of the entries as columns, float32 [M, H]
    tokens     per kernel, the tokens of the rows of `units`, None where they are fixed
    """

    positives: int
    order: Integers
    weights: Floats
    surprise: Floats
    ridge: Floats
    figures: Integers
    rows: Integers
    repeats: Floats
    units: Sequence[Floats]
    tokens: Sequence[Encoded | None]

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        arrays: list[Encoded] = [self.order, self.weights, self.figures, *self.units]
        arrays += [each for each in self.tokens if each is not None]
        return sum(array.nbytes for array in arrays)


@dataclass(slots=True)
class Past:
    """A history beside a candidate list.

    summands        float32 [2 K + 2, N, H], similarity by each kernel first; the rest is left to
                    `ComparedColumns`, for what it sums over the entries
    row_in_history  int64 [N], row of each candidate in the item table, of a new item the row in
                    the history
    """

    history: PreparedHistory
    summands: Floats
    row_in_history: Integers


class HistoryKernels:
    """Compares histories with candidate lists; K kernels.

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
        self.cache: HistoryCache[PreparedHistory] | None = None

    def __len__(self) -> int:
        return len(self._kernels)

    def prepare(
        self, rows: Integers, labels: Floats, key: bytes, rates: Floats | None = None
    ) -> PreparedHistory:
        """Return the user's half of H entries, at least one.

        Args:
            rows: row of each entry in the item table, int64 [H].
            labels: float32 [H].
            key: the bytes of rows and labels.
            rates: log-odds of each entry's expected target at its answer, float32 [H]; None: those
                of its item in the table. Only without rates is the result cached.
        """
        if rates is not None:
            return self._prepare(rows, labels, sigmoid(rates))
        if self.cache is None:
            return self._prepare(rows, labels, self._expected(rows))
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
        size, kernels = len(rows), len(self)
        figures = np.empty((2, size + 1), np.int64)  # one piece, with one address
        sorted_rows, repeats = figures[0], figures[1].view(np.float32).reshape(2, size + 1)
        sorted_rows[0], repeats[:, 0] = -1, 0.0
        rows.take(by_row, out=sorted_rows[1:])
        targets.take(by_row, out=repeats[0, 1:])
        np.subtract(1.0, repeats[0, 1:], out=repeats[1, 1:])
        surprise = (targets - expected).take(order)
        weights = np.empty((2 * kernels + 2, size), np.float32)
        weights[:kernels], weights[kernels:], weights[-1] = surprise, 1.0, surprise
        if raw is None:
            units, tokens = self._kernels.of_history(rows.take(order))
        else:
            units, tokens = self._kernels.of_raw_history([each[order] for each in raw])
        # One product of all unit vectors below each other is the sum of the kernels. The layout
        # decides how BLAS sums, so no copy of another layout gives the same bits.
        stacked = units.T
        among = stacked.T @ stacked
        among /= kernels
        among.reshape(-1)[:: size + 1] += RIDGE
        weights[-2] = np.linalg.solve(among, surprise)
        return PreparedHistory(
            positives=int(np.count_nonzero(liked)),
            order=order,
            weights=weights,
            surprise=weights[-1],
            ridge=weights[-2],
            figures=figures,
            rows=sorted_rows,
            repeats=repeats,
            units=[stacked[place] for place in self._kernels.places(tokens)],
            tokens=tokens,
        )

    def take(self, index: Integers) -> list[Encoded]:
        """Return each kernel's raw rows of candidates, to be overwritten by inline features."""
        return self._kernels.take(index)

    def units_of(self, raw: Sequence[Encoded], count: int) -> Floats:
        """Return unit vectors of M raw rows of each kernel, float32 [M, W].

        W is 0 where they depend on the history. count: M.
        """
        return self._kernels.units_of(raw, count)

    def compare(
        self,
        history: PreparedHistory,
        index: Integers,
        rows: Sequence[Encoded],
        row_in_history: Integers,
        over: tuple[slice | Integers, Floats] | None = None,
    ) -> Past:
        """Compare candidates with a history by each kernel.

        Args:
            history: from `prepare`.
            index: row of each candidate in the item table, int64 [N].
            rows: per kernel, raw rows of the candidates; none at all: those of the table.
            row_in_history: the same as `index`, but of a new item the row in the history.
            over: without rows, places of candidates with other unit vectors, and these.
        """
        summands = np.empty((2 * len(self) + 2, len(index), len(history.surprise)), np.float32)
        if rows:
            units = self._kernels.of_rows(rows, history.tokens)
        else:
            units = self._kernels.of_items(index, history.tokens, over)
        if len(history.surprise) == 1:  # a product with one column rounds by the stride of the rows
            units = [np.ascontiguousarray(each) for each in units]
        for each, of_history, out in zip(units, history.units, summands, strict=False):
            np.matmul(each, of_history, out=out)
        return Past(history, summands, row_in_history)


def expected_labels(rate: Feature | None, encoded: Floats) -> Floats:
    """Return the expected labels float32 [R] by R encoded values of a rate; one half without."""
    if rate is None:
        return np.full(len(encoded), 0.5, np.float32)
    return sigmoid(encoded * rate.std + rate.mean)


def sigmoid(logits: Floats) -> Floats:
    """Return probabilities float32 of the same shape."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)
