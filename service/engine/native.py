"""Decode rows by the native library instead of the graph, with the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    joined_pins,
    joined_rows,
    split_logits,
    table_of,
)
from service.engine.native_library import (
    COUNTED,
    LIST_FIELDS,
    Batch,
    Finished,
    NativeLibrary,
)
from service.engine.native_weights import EvaluatorWeights, GeneratorWeights
from service.engine.rows import Row


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
        positions, sizes = self._positions, [len(row.numbers) for row in rows]
        lists, noises, logits = describe(rows, sizes, positions)
        knobs = [
            (row.entropy_threshold, row.reason_temperature, row.recommend_temperature)
            for row in rows
        ]
        constraints = [row.constraints for row in rows]
        arrays = {
            "list": lists,
            "knobs": table_of(knobs, 3, FLOAT),
            "rows": joined_rows(
                [row.rows for row in rows], [row.tokens for row in rows], sizes, self._width,
                self._table,
            ),
            "numbers": joined("numbers", [row.numbers for row in rows], sizes, self._numbers),
            "pinned": joined_pins(rows, positions),
            "group": joined("group", [one.group for one in constraints], sizes, None, INTEGER),
            "quota": joined("quota", [one.quota for one in constraints], sizes),
        }  # fmt: skip
        if noises:
            arrays["noise"] = joined("noise", noises, [len(noise) for noise in noises])
        if logits:
            arrays["logits"] = np.empty(logits, FLOAT)
        pairs = [(row.intent, size) for row, size in zip(rows, sizes, strict=True) if row.intent]
        if pairs:
            arrays |= intent_arrays([intent for intent, _ in pairs], [size for _, size in pairs])
        slates = len(rows) if not noises else int(lists[:, LIST_FIELDS.index("slates")].sum())
        steps, figures = self._decode((len(rows), slates, sum(sizes)), arrays)
        parts = split_logits(arrays["logits"], lists, positions) if logits else None
        logprob, before, after = figures
        return NativeOutputs(steps[0], logprob, before, after, steps[1], parts)

    def _decode(
        self, counts: tuple[int, int, int], arrays: Mapping[str, Array]
    ) -> tuple[Integers, Floats]:
        """Return slate and steps int64 [2, R, K], and the three figures float32 [3, R, K]."""
        shape = counts[1], self._positions
        steps, figures = np.empty((2, *shape), INTEGER), np.empty((3, *shape), FLOAT)
        batch = Batch(*counts)
        for name, array in arrays.items():
            if array.size:
                setattr(batch, name, address_of(array))
        for name in COUNTED:
            if name in arrays:
                setattr(batch, f"{name}_count", arrays[name].size)
        cells = shape[0] * shape[1]
        batch.slate = address_of(steps)
        batch.steps = batch.slate + INTEGER.itemsize * cells
        batch.logprob = address_of(figures)
        batch.before = batch.logprob + FLOAT.itemsize * cells
        batch.after = batch.before + FLOAT.itemsize * cells
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
            "list": table_of(lists, len(LIST_FIELDS), INTEGER),
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
