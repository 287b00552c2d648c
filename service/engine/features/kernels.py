"""Kernels over item features: the similarity of each candidate to each entry of a history.

A kernel reads raw rows of the item table, which may be mapped from a file, at the time of a
request. It keeps no matrix over all items or over the vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers

Encoded = npt.NDArray[Any]  # vectors float32 [R, width], or tokens [R, width] of any integer type

SMALL = 64  # a vocabulary up to this size has a column for each value
KEPT_BYTES = 8 << 20  # of unit vectors of recent items


class VectorKernel:
    """The cosine of vectors; an item without a vector is similar to none."""

    def __init__(self, table: Floats) -> None:
        """table: raw vectors float32 [I + 1, width]."""
        self._table = table
        self.columns: int | None = table.shape[1]

    def take(self, index: Integers, unknown: Integers) -> Encoded:
        """Return the vectors float32 [R, width] of items by their rows int64 [R].

        unknown: positions of unknown items, whose vectors are zero.
        """
        rows = self._table[index]
        if len(unknown):
            rows[unknown] = 0.0
        return rows

    def tokens(self, rows: Encoded) -> Encoded | None:
        """Return None: a column does not stand for a token."""
        return None

    def units(self, rows: Encoded, tokens: Encoded | None) -> Floats:
        """Return the unit vectors float32 [R, width] of raw rows."""
        return np.asarray(rows / _lengths(np.vecdot(rows, rows)))


class TokenKernel:
    """The cosine of sets of tokens: the shared ones over the root of the product of their numbers.

    Unless the vocabulary is small, only tokens of the history have a column. The first column is
    empty.
    """

    def __init__(self, table: Encoded, slots: slice, first: int, size: int) -> None:
        """Read tokens of one feature.

        Args:
            table: tokens of all features [I + 1, Q].
            slots: those of the feature.
            first: its out-of-vocabulary token, below those of the vocabulary; 0 is no token.
            size: size of the vocabulary.
        """
        self._table, self._first = table[:, slots], first
        self._ones = np.ones(self._table.shape[1], np.float32)
        self.columns = size + 1 if size <= SMALL else None

    def take(self, index: Integers, unknown: Integers) -> Encoded:
        """Return the tokens [R, width] of items by their rows int64 [R].

        unknown: not read, because the table has a row of an unknown item.
        """
        return self._table[index]

    def tokens(self, rows: Encoded) -> Encoded | None:
        """Return the tokens that have a column when compared with these rows of a history.

        Ascending, with a sentinel above all tokens; None for all of a small vocabulary.
        """
        if self.columns is not None:
            return None
        sentinel = np.array([np.iinfo(rows.dtype).max], rows.dtype)
        return np.concatenate([np.unique(rows[rows > self._first]), sentinel])

    def units(self, rows: Encoded, tokens: Encoded | None) -> Floats:
        """Return the unit vectors float32 [R, M] of raw rows, in the columns of tokens."""
        if tokens is None:
            assert self.columns is not None
            width, column = self.columns, np.maximum(rows - self._first, 0)
        else:
            width, column = len(tokens), tokens.searchsorted(rows)
            column = np.where(tokens.take(column) == rows, column + 1, 0)
        column = column + np.arange(0, len(rows) * width, width)[:, None]
        flat = np.zeros(len(rows) * width, np.float32)
        flat[column] = 1.0
        flat[::width] = 0.0  # of tokens without a column
        units = flat.reshape(len(rows), width)
        units /= _lengths(np.vecdot(units, units) if tokens is None else self._count(rows))
        return units

    def _count(self, rows: Encoded) -> Floats:
        """Return the number of distinct tokens of the vocabulary in each row, float32 [R]."""
        flat = np.sort(rows, axis=1).ravel()
        distinct = flat > self._first
        repeated = flat[1:] == flat[:-1]
        repeated[rows.shape[1] - 1 :: rows.shape[1]] = False  # another row begins
        distinct[1:] &= ~repeated
        return np.asarray(distinct.reshape(rows.shape) @ self._ones)


Kernel = VectorKernel | TokenKernel


class KernelStack:
    """K kernels over the same items. Threads may share it.

    Unit vectors with fixed columns are kept for recent items, up to KEPT_BYTES.
    """

    def __init__(self, kernels: Sequence[Kernel], items: int) -> None:
        """items: size I of the item table; its row I is that of an unknown item."""
        self._kernels, self._items = kernels, items
        self._fixed = [number for number, k in enumerate(kernels) if k.columns is not None]
        ends = np.cumsum([0, *(kernels[number].columns or 0 for number in self._fixed)]).tolist()
        self._places = [slice(*pair) for pair in pairwise(ends)]
        self._kept = RecentRows(self._fixed_units, ends[-1], items + 1)
        self._no_tokens: list[Encoded | None] = [None] * len(kernels)

    def __len__(self) -> int:
        return len(self._kernels)

    def take(self, index: Integers) -> list[Encoded]:
        """Return the raw rows of items by each kernel; index: int64 [R], I if unknown."""
        unknown = (index == self._items).nonzero()[0]
        return [kernel.take(index, unknown) for kernel in self._kernels]

    def of_history(self, index: Integers) -> tuple[Floats, list[Encoded | None]]:
        """Return the unit vectors of H entries by all kernels, side by side, and their tokens.

        index: rows of the item table, int64 [H].
        """
        if len(self._fixed) == len(self._kernels):
            return self._kept.take(index), self._no_tokens
        none = np.zeros(0, np.int64)
        tokens = [
            None if kernel.columns is not None else kernel.tokens(kernel.take(index, none))
            for kernel in self._kernels
        ]
        return np.concatenate(self.of_items(index, tokens), axis=1), tokens

    def of_raw_history(self, raw: Sequence[Encoded]) -> tuple[Floats, list[Encoded | None]]:
        """Do the same for H entries by their raw rows of each kernel."""
        tokens = [kernel.tokens(rows) for kernel, rows in zip(self._kernels, raw, strict=True)]
        return np.concatenate(self.of_rows(raw, tokens), axis=1), tokens

    def places(self, tokens: Sequence[Encoded | None]) -> list[slice]:
        """Return the columns of each kernel in the unit vectors of a history.

        tokens: those of the history.
        """
        if len(self._fixed) == len(self._kernels):
            return self._places
        widths = [
            kernel.columns or 0 if each is None else len(each)
            for kernel, each in zip(self._kernels, tokens, strict=True)
        ]
        return [slice(*pair) for pair in pairwise(accumulate(widths, initial=0))]

    def units_of(self, raw: Sequence[Encoded], count: int) -> Floats:
        """Return unit vectors of R raw rows by all kernels, side by side, float32 [R, W].

        W is 0 unless the columns of all kernels are fixed.
        """
        if len(self._fixed) < len(self._kernels) or not self._kernels:
            return np.zeros((count, 0), np.float32)
        return np.concatenate(self.of_rows(raw, self._no_tokens), axis=1)

    def of_items(
        self,
        index: Integers,
        tokens: Sequence[Encoded | None],
        over: tuple[slice | Integers, Floats] | None = None,
    ) -> list[Floats]:
        """Return the unit vectors of R items by each kernel, to compare with a history.

        Args:
            index: rows of the item table, int64 [R].
            tokens: per kernel, those of the history.
            over: places of items with other unit vectors, and these, as of `units_of`.
        """
        if over is not None and isinstance(over[0], slice):  # all of them
            kept = over[1]
        else:
            kept = self._kept.take(index)
            if over is not None:
                kept[over[0]] = over[1]
        if len(self._fixed) == len(self._kernels):
            return [kept[:, place] for place in self._places]
        units = [kept] * len(self._kernels)
        for number, place in zip(self._fixed, self._places, strict=True):
            units[number] = kept[:, place]
        for number, kernel in enumerate(self._kernels):
            if kernel.columns is None:
                raw = kernel.take(index, np.zeros(0, np.int64))
                units[number] = kernel.units(raw, tokens[number])
        return units

    def of_rows(self, raw: Sequence[Encoded], tokens: Sequence[Encoded | None]) -> list[Floats]:
        """Return the unit vectors of raw rows by each kernel, to compare with a history."""
        kernels = zip(self._kernels, raw, tokens, strict=True)
        return [kernel.units(rows, each) for kernel, rows, each in kernels]

    def _fixed_units(self, index: Integers) -> Floats:
        unknown = (index == self._items).nonzero()[0]
        kernels = [self._kernels[number] for number in self._fixed]
        return np.concatenate([k.units(k.take(index, unknown), None) for k in kernels], axis=1)


class RecentRows:
    """Rows that are computed once and kept until another index takes their place.

    If all of them fit, they are computed at once, and no lookup needs a lock or a comparison.
    """

    def __init__(self, compute: Callable[[Integers], Floats], width: int, count: int) -> None:
        """Keep rows.

        Args:
            compute: returns the rows float32 [R, width] of some indices int64 [R].
            width: their width.
            count: number of indices, from 0.
        """
        self._compute = compute
        self._places = max(1, min(count, KEPT_BYTES // (4 * max(1, width))))
        self._complete = count <= self._places
        if self._complete:
            every = np.arange(count) if width else np.zeros(0, np.int64)
            self._rows = compute(every) if len(every) else np.empty((count, width), np.float32)
        else:
            self._rows = np.empty((self._places, width), np.float32)
        self._index = np.full(0 if self._complete else self._places, -1)  # of each row
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def take(self, index: Integers) -> Floats:
        """Return the rows of some indices, float32 [R, width]."""
        if self._complete:
            return self._rows.take(index, axis=0)
        place = index % self._places
        with self._lock:
            absent = self._index.take(place) != index
            rows = self._rows.take(place, axis=0)
        if absent.any():
            rows[absent] = computed = self._compute(index[absent])
            with self._lock:
                self._index[place[absent]], self._rows[place[absent]] = index[absent], computed
        return rows


def _lengths(squares: Floats) -> Floats:
    """Return lengths float32 [R, 1] from squares [R], above 0: zeros stay zeros if divided."""
    roots = np.sqrt(squares)
    return np.maximum(roots, np.float32(1e-9), out=roots)[:, None]
