"""Decode rows by the native library instead of the graph, with the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from service.engine.contract import Floats, Integers
from service.engine.native_arrays import (
    FLOAT,
    INTEGER,
    Array,
    address_of,
    describe,
    intent_arrays,
    joined,
    joined_rows,
    split_logits,
    vector_of,
    with_pins,
)
from service.engine.native_library import (
    COUNTED,
    LIST_FIELDS,
    Batch,
    Finished,
    NativeError,
    NativeLibrary,
)
from service.engine.native_weights import EvaluatorWeights, GeneratorWeights
from service.engine.rows import Row

# Errors of values that are none of the types that a row declares, or too many to hold.
MALFORMED = (AttributeError, IndexError, MemoryError, OverflowError, TypeError, ValueError)


class NativeOutputs(NamedTuple):
    """R decoded slates: the outputs of the graph, and the logits of each slate.

    slate, steps int64 [R, K]; logprob, entropy_before, entropy_after float32 [R, K]; logits float32
    [K, N] of each slate whose row is explained or has an intent, else None.
    """

    slate: Integers
    logprob: Floats
    entropy_before: Floats
    entropy_after: Floats
    steps: Integers
    logits: list[Floats | None] | None


class NativeGenerator:
    """The reasoning loop of one generator in the native library; thread-safe."""

    def __init__(self, library: NativeLibrary, weights: GeneratorWeights) -> None:
        """Create it. Raises NativeError if the library refuses its shape."""
        self._library, self._handle = library, library.create_generator(weights)
        self._positions, self._width = weights.positions, weights.width
        self._numbers, self._table = weights.numbers, weights.table

    def run(self, rows: Sequence[Row]) -> NativeOutputs:
        """Decode rows. Raises NativeError for arrays that do not fit each other or the bundle."""
        try:
            return self._run(rows)
        except MALFORMED as error:
            raise NativeError(f"a row is malformed: {error}") from error

    def _run(self, rows: Sequence[Row]) -> NativeOutputs:
        positions, sizes = self._positions, [len(row.numbers) for row in rows]
        lists, noises, logits = describe(rows, sizes, positions)
        constraints = [row.constraints for row in rows]
        arrays = {
            "rows": joined_rows(
                [row.rows for row in rows], [row.tokens for row in rows], sizes, self._width,
                self._table,
            ),
            "numbers": joined("numbers", [row.numbers for row in rows], sizes, self._numbers),
            "group": joined("group", [one.group for one in constraints], sizes, None, INTEGER),
            "quota": joined("quota", [one.quota for one in constraints], sizes),
        }  # fmt: skip
        slates = len(rows)
        if noises:
            arrays["noise"] = joined("noise", noises, [len(noise) for noise in noises])
            slates = sum(fields[1] for fields in lists)
        if logits:
            arrays["logits"] = np.empty(logits, FLOAT)
        pairs = [(row.intent, size) for row, size in zip(rows, sizes, strict=True) if row.intent]
        if pairs:
            arrays |= intent_arrays([intent for intent, _ in pairs], [size for _, size in pairs])
        integers = with_pins(lists, rows, positions)
        knobs: list[float] = []
        for row in rows:
            knobs += row.entropy_threshold, row.reason_temperature, row.recommend_temperature
        floats = vector_of(knobs, FLOAT)
        counts = len(rows), slates, sum(sizes)
        steps, (logprob, before, after) = self._decode(counts, arrays, integers, floats)
        parts = split_logits(arrays["logits"], lists, positions) if logits else None
        return NativeOutputs(steps[0], logprob, before, after, steps[1], parts)

    def _decode(
        self,
        counts: tuple[int, int, int],
        arrays: Mapping[str, Array],
        integers: Integers,
        knobs: Floats,
    ) -> tuple[Integers, Floats]:
        """Return slate and steps int64 [2, R, K], and the three figures float32 [3, R, K].

        integers: eglr_list int64 [B, 9] and then pins int64 [B, K].
        """
        shape = counts[1], self._positions
        steps, figures = np.empty((2, *shape), INTEGER), np.empty((3, *shape), FLOAT)
        batch = Batch(*counts)
        for name, array in arrays.items():
            if array.size:
                setattr(batch, name, address_of(array))
        for name in COUNTED:
            if name in arrays:
                setattr(batch, f"{name}_count", arrays[name].size)
        cells, at = shape[0] * shape[1], address_of(integers)
        batch.list, batch.knobs = at, address_of(knobs)
        batch.pinned = at + INTEGER.itemsize * len(LIST_FIELDS) * counts[0]
        batch.slate = at = address_of(steps)
        batch.steps = at + INTEGER.itemsize * cells
        batch.logprob = at = address_of(figures)
        batch.before, batch.after = at + FLOAT.itemsize * cells, at + 2 * FLOAT.itemsize * cells
        self._library.decode(self._handle, batch)
        return steps, figures


class NativeEvaluator:
    """The evaluator in the native library; thread-safe."""

    def __init__(self, library: NativeLibrary, weights: EvaluatorWeights) -> None:
        """Create it. Raises NativeError if the library refuses its shape."""
        self._library, self._handle = library, library.create_evaluator(weights)
        self._positions, self._width = weights.positions, weights.width
        self._numbers, self._table = weights.numbers, weights.table

    def run(
        self, rows: Sequence[Row], item_rows: Sequence[Floats | None], slate: Integers
    ) -> Floats:
        """Return the utility float32 [R] of finished slates.

        Args:
            rows: one for each list.
            item_rows: float32 [N, D] of the evaluator for each list, None for contract 2.
            slate: int64 [R, K], the slates of the first list first.

        Raises NativeError for arrays that do not fit each other or the bundle.
        """
        sizes = [len(row.numbers) for row in rows]
        rest = (0,) * (len(LIST_FIELDS) - 2)
        lists = [
            (size, row.sampling.slates if row.sampling else 1, *rest)
            for row, size in zip(rows, sizes, strict=True)
        ]
        slates = sum(slates for _, slates, *_ in lists)
        arrays: dict[str, Array] = {
            "list": vector_of([*chain.from_iterable(lists)], INTEGER),
            "rows": joined_rows(
                item_rows, [row.tokens for row in rows], sizes, self._width, self._table
            ),
            "numbers": joined("numbers", [row.numbers for row in rows], sizes, self._numbers),
            "slate": joined("slate", [slate], [slates], self._positions, INTEGER),
            "likes": np.empty((slates, self._positions), FLOAT),
            "utility": np.empty(slates, FLOAT),
        }
        finished = Finished(len(rows), slates, sum(sizes))
        for name, array in arrays.items():
            if array.size:
                setattr(finished, name, address_of(array))
        self._library.evaluate(self._handle, finished)
        return arrays["utility"]
