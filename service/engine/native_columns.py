"""Write the columns that compare candidates with the native library, with the bits of numpy.

Sums are numpy's, so that they are those of training. The library does all that lies between them,
which takes numpy many calls on small arrays.
"""

from __future__ import annotations

import math

import numpy as np

from service.engine.contract import Floats
from service.engine.features.compared import (
    NEAREST,
    SHARES,
    ComparedColumns,
    Places,
    age_of,
)
from service.engine.features.encoding import z_scores
from service.engine.features.history import Past, PreparedHistory
from service.engine.native_arrays import FLOAT, INTEGER, Array, address_of
from service.engine.native_library import Columns, NativeError, NativeLibrary

# Beyond, ranks by comparing each pair of candidates take longer than numpy's, which sorts them.
MOST_CANDIDATES = 512
CHECKED = (1, 2, 3, 8, 17, 50, 130)  # candidates of the lists of a check


class NativeColumns:
    """Fills the columns of one layout; thread-safe."""

    def __init__(self, library: NativeLibrary, places: Places) -> None:
        self._library, self._places = library, places
        self._sources = np.array(places.sources, INTEGER)
        self._targets = np.array(places.targets, INTEGER)
        self._at = (0, 0)
        if places.sources:
            self._at = address_of(self._sources), address_of(self._targets)
        kernels, first = places.kernels, places.history
        joint = first + 3 * kernels
        self._standardised = np.array(
            [*places.targets[::3], *range(first + 2, joint, 3), joint + 1, joint + 4], INTEGER
        )
        self._summed = np.array(
            [*range(first, joint, 3), *range(first + 1, joint, 3), joint, joint + 3,
             *self._standardised, joint + 2], INTEGER,
        )  # fmt: skip

    def __call__(self, numbers: Floats, past: Past | None) -> bool:
        """Write the columns to numbers float32 [N, F]; false for a list that is left to numpy.

        Raises NativeError for arrays that do not fit each other or the layout.
        """
        count, places = len(numbers), self._places
        relative, kernels = len(places.sources), places.kernels
        if not 0 < count <= MOST_CANDIDATES:
            return False
        expect("numbers", numbers, FLOAT, (count, places.width))
        if past is None:
            if relative:
                compared = np.empty((relative, count), FLOAT)
                self._library.compare(
                    Columns(
                        count, places.width, relative, 0, 0, 0, 0, *self._at, 0, 0, 0,
                        address_of(numbers), address_of(compared), 0, 0.0,
                    )
                )  # fmt: skip
                numbers[:, self._standardised[:relative]] = z_scores(compared).T
            return True
        history, rows, summands = past.history, past.row_in_history, past.summands
        size = len(history.surprise)
        expect("summands", summands, FLOAT, (2 * kernels + 2, count, size))
        expect("figures", history.figures, INTEGER, (2, size + 1))
        expect("rows", rows, INTEGER, (count,))
        compared = np.empty((relative + kernels + 2, count), FLOAT)
        nearest = np.empty((count, NEAREST), FLOAT)
        columns = Columns(
            count, places.width, relative, kernels, size, history.positives, places.history,
            *self._at, address_of(summands), address_of(history.figures), address_of(rows),
            address_of(numbers), address_of(compared), address_of(nearest), age_of(size),
        )  # fmt: skip
        self._library.compare(columns)
        if columns.tied:
            return False
        near = nearest @ SHARES if size > NEAREST else summands[-2].mean(axis=1)
        sums = np.matmul(summands, history.weights[:, :, None])[:, :, 0]
        totals, weights = sums[:kernels], sums[kernels:-2]
        weights += 1.0
        np.divide(totals, weights, out=compared[relative : relative + kernels])
        compared[relative + kernels :] = sums[-2:]
        totals /= math.sqrt(size)
        written = [totals, compared[relative:], z_scores(compared), near[None]]
        numbers[:, self._summed] = np.concatenate(written).T
        return True


def expect(name: str, array: Array, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    """Raise NativeError unless an array is contiguous, of this dtype and shape."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise NativeError(
            f"{name}: must be contiguous {dtype} {shape}, got {array.dtype} {array.shape}"
        )


def gives_same_bits(native: NativeColumns, compared: ComparedColumns) -> bool:
    """True if random lists get numpy's bits; elsewhere it may select entries in another order."""
    draw, places = np.random.default_rng(0), compared.places
    for count in CHECKED:
        numbers = draw.standard_normal((count, places.width)).astype(FLOAT)
        for size in (1, 10, 11, 48, 128) if places.kernels else (0,):
            past = random_past(draw, places.kernels, size, count) if size else None
            expected, columns = numbers.copy(), numbers.copy()
            compared.fill(expected, past)
            if native(columns, past) and columns.tobytes() != expected.tobytes():
                return False
    return True


def random_past(draw: np.random.Generator, kernels: int, size: int, count: int) -> Past:
    """Return a history of random entries beside random candidates, some of which are equal."""
    figures = np.empty((2, size + 1), INTEGER)
    rows, repeats = figures[0], figures[1].view(FLOAT).reshape(2, size + 1)
    rows[0], rows[1:] = -1, np.sort(draw.integers(0, 4 * size, size))
    repeats[:] = draw.uniform(0, 1, repeats.shape)
    weights = np.ones((2 * kernels + 2, size), FLOAT)
    weights[-1], weights[-2] = draw.uniform(-1, 1, (2, size))
    weights[:kernels] = weights[-1]
    summands = draw.uniform(-0.2, 1, (2 * kernels + 2, count, size)).astype(FLOAT)
    summands[:kernels, 0] = 0.0
    history = PreparedHistory(
        int(draw.integers(0, size + 1)), np.arange(size), weights, weights[-1], weights[-2],
        figures, rows, repeats, (), (),
    )  # fmt: skip
    return Past(history, summands, draw.integers(0, 4 * size, count))
