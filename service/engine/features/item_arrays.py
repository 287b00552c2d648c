"""The encoded features of items, in the columns and slots of a layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers
from service.engine.features.layout import Layout, places_of
from service.engine.features.schema import NUMBER_KINDS

Array = npt.NDArray[Any]


class ItemArrays:
    """Features of I items, and in a last row those of an unknown item.

    numbers  float32 [I + 1, P], number and statistic features
    tokens   int32 or int64 [I + 1, Q], token slots
    vectors  name -> float32 [I + 1, width]

    The arrays may be memory-mapped, so rows are taken by index and no array is copied.
    """

    def __init__(
        self, layout: Layout, numbers: Floats, tokens: Array, vectors: Mapping[str, Floats]
    ) -> None:
        self.numbers, self.tokens, self.vectors = numbers, tokens, vectors
        features = [feature for feature in layout.features.values() if feature.of == "item"]
        number_features = [f.name for f in features if f.kind in NUMBER_KINDS]
        columns = [layout.column[name] for name in number_features]
        slots = [slot for f in features if f.slots for slot in layout.slot_range(f)]
        self.place = {name: place for place, name in enumerate(number_features)}
        self.slot_of = {slot: place for place, slot in enumerate(slots)}
        self._columns, self._slots = places_of(columns), places_of(slots)
        self._column_of = dict(zip(number_features, columns, strict=True))
        self._slots_of = {f.name: list(layout.slot_range(f)) for f in features if f.slots}
        self._inputs = {
            f.name: (layout.columns(f), vectors[f.name])
            for f in features
            if f.kind == "vector" and f.input
        }
        compared = {source for source, _ in layout.relative}
        sources = [(place, column) for place, column in enumerate(columns) if column in compared]
        self._compared = len(sources) > 0
        self._compared_at = places_of([place for place, _ in sources])
        self._compared_columns = places_of([column for _, column in sources])

    def write(self, index: Integers, numbers: Floats, tokens: Integers) -> None:
        """Write the features of items at rows `index` [N] to numbers [N, F] and tokens [N, T]."""
        if self.numbers.shape[1]:
            numbers[:, self._columns] = self.numbers.take(index, axis=0)
        for columns, rows in self._inputs.values():
            numbers[:, columns] = rows.take(index, axis=0)
        self.write_tokens(index, tokens)

    def write_tokens(self, index: Integers, tokens: Integers) -> None:
        """Write only the tokens."""
        if self.tokens.shape[1]:
            tokens[:, self._slots] = self.tokens.take(index, axis=0)

    def write_features(
        self, index: Integers, numbers: Floats, tokens: Integers, names: Iterable[str]
    ) -> None:
        """Write only these features of items."""
        for name in names:
            if name in self.place:
                numbers[:, self._column_of[name]] = self.numbers[index, self.place[name]]
            elif name in self._slots_of:
                places = [self.slot_of[slot] for slot in self._slots_of[name]]
                tokens[:, self._slots_of[name]] = self.tokens[index[:, None], places]
            elif name in self._inputs:
                columns, rows = self._inputs[name]
                numbers[:, columns] = rows.take(index, axis=0)

    def write_compared(self, index: Integers, numbers: Floats) -> None:
        """Write only the numbers that are compared within the list."""
        if self._compared:
            rows = self.numbers.take(index, axis=0)
            numbers[:, self._compared_columns] = rows[:, self._compared_at]


def with_last_row(rows: Array, last: Array) -> Array:
    """Return rows [I, width] and a last one, [I + 1, width] of the dtype of `rows`."""
    return np.concatenate([rows, np.asarray(last, rows.dtype)[None]])
