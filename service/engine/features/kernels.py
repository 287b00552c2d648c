"""Kernels over item features: the similarity of each candidate to each entry of a history.

A kernel reads raw rows of the item table, which may be mapped from a file, at the time of a
request. It keeps no matrix of its own over items or over the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers

Encoded = npt.NDArray[Any]  # vectors float32 [R, width], or tokens [R, width] of any integer type

SMALL = 64  # a vocabulary up to this size has a column for each value


@dataclass(frozen=True)
class Entries:
    """H entries of a history as one kernel compares them.

    units: float32 [M, H], their unit vectors as columns; tokens: of a kernel over a vocabulary that
    is not small, the token of each row but the first, ascending, and a sentinel above all tokens.
    """

    units: Floats
    tokens: Encoded | None = None

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return self.units.nbytes + (0 if self.tokens is None else self.tokens.nbytes)


class VectorKernel:
    """The cosine of vectors; an item without a vector is similar to none."""

    def __init__(self, table: Floats) -> None:
        """table: raw vectors float32 [I + 1, width]."""
        self._table = table

    def take(self, index: Integers, unknown: Integers | None) -> Encoded:
        """Return the vectors float32 [R, width] of items by their rows int64 [R].

        unknown: positions of unknown items, whose vectors are zero; None for none.
        """
        rows = self._table[index]
        if unknown is not None:
            rows[unknown] = 0.0
        return rows

    def entries(self, rows: Encoded) -> Entries:
        """Return the entries of a history from their vectors."""
        # Contiguous, because a product with a transposed view is slower.
        return Entries(np.divide(rows.T, lengths(np.vecdot(rows, rows)), order="C"))

    def compare(self, rows: Encoded, entries: Entries, products: Floats, squares: Floats) -> None:
        """Write the products [R, H] of vectors with entries, and the squared lengths [R]."""
        np.matmul(rows, entries.units, out=products)
        np.vecdot(rows, rows, out=squares)


class TokenKernel:
    """The cosine of sets of tokens: the shared ones over the root of the product of their numbers.

    Unless the vocabulary is small, only tokens of the history have a column.
    """

    def __init__(self, table: Encoded, slots: slice, first: int, size: int) -> None:
        """Read tokens of one feature.

        Args:
            table: tokens of all features [I + 1, Q].
            slots: those of the feature.
            first: its out-of-vocabulary token, below those of the vocabulary; 0 is no token.
            size: size of the vocabulary.
        """
        self._table, self._first, self._size = table[:, slots], first, size
        self._ones = np.ones(self._table.shape[1], np.float32)

    def take(self, index: Integers, unknown: Integers | None) -> Encoded:
        """Return the tokens [R, width] of items by their rows int64 [R].

        unknown: not read, because the table has a row of an unknown item.
        """
        return self._table[index]

    def entries(self, rows: Encoded) -> Entries:
        """Return the entries of a history from their tokens."""
        tokens = None
        if self._size > SMALL:
            sentinel = np.array([np.iinfo(rows.dtype).max], rows.dtype)
            tokens = np.concatenate([np.unique(rows[rows > self._first]), sentinel])
        bag, squares = self._bag(rows, tokens)
        return Entries(np.divide(bag.T, lengths(squares), order="C"), tokens)

    def compare(self, rows: Encoded, entries: Entries, products: Floats, squares: Floats) -> None:
        """Write the products [R, H] of tokens with entries, and the squared lengths [R]."""
        bag, squares[:] = self._bag(rows, entries.tokens)
        np.matmul(bag, entries.units, out=products)

    def _bag(self, rows: Encoded, tokens: Encoded | None) -> tuple[Floats, Floats]:
        """Return 1 in the column of each token, float32 [R, M], and the squared lengths [R].

        The first column is empty. The squared length is the number of distinct tokens.
        """
        if tokens is None:
            width, column = self._size + 1, np.maximum(rows - self._first, 0)
        else:
            width, column = len(tokens), tokens.searchsorted(rows)
            column = np.where(tokens.take(column) == rows, column + 1, 0)
        column = column + np.arange(0, len(rows) * width, width)[:, None]
        flat = np.zeros(len(rows) * width, np.float32)
        flat[column] = 1.0
        flat[::width] = 0.0  # of tokens without a column
        bag = flat.reshape(len(rows), width)
        return bag, np.vecdot(bag, bag) if tokens is None else self._count(rows)

    def _count(self, rows: Encoded) -> Floats:
        """Return the number of distinct tokens of the vocabulary in each row, float32 [R]."""
        flat = np.sort(rows, axis=1).ravel()
        distinct = flat > self._first
        repeated = flat[1:] == flat[:-1]
        repeated[rows.shape[1] - 1 :: rows.shape[1]] = False  # another row begins
        distinct[1:] &= ~repeated
        return np.asarray(distinct.reshape(rows.shape) @ self._ones)


Kernel = VectorKernel | TokenKernel


def lengths(squares: Floats) -> Floats:
    """Return float32 lengths from their squares, above 0 so that zeros stay zeros if divided."""
    roots = np.sqrt(squares)
    return np.maximum(roots, np.float32(1e-9), out=roots)
