"""Encode stored items in the places of the item table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers
from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import FeatureError, encode_number, encode_vector
from service.engine.features.history import HistoryKernels
from service.engine.features.id_index import Ids
from service.engine.features.inline import InlineFeatures
from service.engine.features.item_arrays import ItemArrays
from service.engine.features.item_files import ITEM_ID
from service.engine.features.item_half import ItemHalf, moved_by
from service.engine.features.kernels import Encoded
from service.engine.features.layout import Layout, places_of
from service.engine.features.live_rates import LiveRates
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema
from service.engine.features.snapshot import Snapshot
from service.engine.features.stored_items import Array, Doubles, Entry, Places, StoredItem

# A number farther from the train mean, in deviations, is clipped, unless the item table has one.
RANGE = 5.0

# Columns of the facts of an item: time of its last change, values clipped and ignored; 1 if its raw
# kernel rows are not those of the table; its counters, and the values of those that were clipped
# and stay.
UPDATED, CLIPPED, IGNORED, KERNELS, LIVE, CLIPPED_RATES = range(6)


@dataclass(slots=True)
class EncodedItems:
    """M items.

    arrays   by name, the rows [M, ...] that are kept
    entries  the names of the features of each
    """

    arrays: Mapping[str, Array]
    entries: Sequence[Entry]


class ItemEncoder:
    """Encodes stored items over the rows of the item table, or the defaults of unknown items.

    places: of the features of items. rates: the statistics that counters give; rate_places: their
    columns among those of items.
    """

    def __init__(
        self,
        schema: Schema,
        layout: Layout,
        ids: Ids,
        items: ItemArrays,
        history: HistoryKernels,
        snapshot: Snapshot | None,
        half: ItemHalf | None,
    ) -> None:
        """half: the generator's item rows, None for a bundle without."""
        self._layout, self._ids, self._items, self._history = layout, ids, items, history
        self._half = half
        self._inline = InlineFeatures(layout, schema.history.kernels, ("item",))
        features = [feature for feature in schema.features if feature.of == "item"]
        # The id of an item is its key in the store, and no feature of it.
        self._features = {f.name: f for f in features if f.name != ITEM_ID}
        self._bit = {feature.name: 1 << place for place, feature in enumerate(features)}
        columns = [c for f in features if f.name in layout.column for c in layout.column_range(f)]
        slots = [slot for f in features if f.slots for slot in layout.slot_range(f)]
        names = [feature.name for feature in features]
        self.places = Places(places_of(columns), places_of(slots), names)
        numeric = [feature for feature in features if feature.kind in NUMBER_KINDS]
        self._scalars = places_of([layout.column[feature.name] for feature in numeric])
        self._low = np.minimum(items.numbers.min(axis=0), np.float32(-RANGE))
        self._high = np.maximum(items.numbers.max(axis=0), np.float32(RANGE))
        statistics = [feature for feature in numeric if feature.kind == "statistic"]
        self._table_places = [items.place[feature.name] for feature in statistics]
        low, high = self._low[self._table_places], self._high[self._table_places]
        self.rates = LiveRates(statistics, snapshot, low, high)
        self.rate_places = [columns.index(layout.column[name]) for name in self.rates.names]
        of_statistics = [layout.column[feature.name] for feature in statistics]
        self._statistics = frozenset(feature.name for feature in statistics)
        self._statistic_places = [columns.index(column) for column in of_statistics]
        self._weights = None if half is None else half.weights(of_statistics)

    @property
    def kernels(self) -> int:
        """Number of history kernels."""
        return len(self._history)

    def encode(self, ids: Sequence[str], items: Sequence[StoredItem]) -> EncodedItems:
        """Encode M items."""
        index = self._ids.find(ids)
        records = [
            {n: v for n, v in item.features.items() if n in self._features and v is not None}
            for item in items
        ]
        try:
            numbers, tokens, kernels = self._fill(ids, index, records)
        except FeatureError:
            records = [self._allowed(record) for record in records]
            numbers, tokens, kernels = self._fill(ids, index, records)
        scalars = numbers[:, self._scalars]
        within = np.clip(scalars, self._low, self._high)
        clipped = np.count_nonzero(within != scalars, axis=1)
        numbers[:, self._scalars] = within
        names = set[str]().union(*records)
        counts, numbers_of_counters = self.counts(items)
        ignored = [
            tuple(n for n, v in item.features.items() if n not in record and v is not None)
            for item, record in zip(items, records, strict=True)
        ]
        facts = np.zeros((len(ids), CLIPPED_RATES + 1), np.int64)
        facts[:, UPDATED] = [item.updated_at for item in items]
        facts[:, CLIPPED] = clipped
        facts[:, IGNORED] = [len(each) for each in ignored]
        for rows, of_table in zip(kernels, self._history.take(index), strict=True):
            facts[:, KERNELS] |= (rows != of_table).any(axis=1)
        facts[:, LIVE] = numbers_of_counters
        arrays = {
            "numbers": numbers[:, self.places.columns],
            "tokens": tokens[:, self.places.slots].astype(self._items.tokens.dtype),
            "change": self._change(index, numbers, tokens, names - self._statistics),
            "facts": facts,
            "counts": counts,
            "units": self._history.units_of(kernels, len(ids)),
        }
        arrays |= {f"kernel.{number}": rows for number, rows in enumerate(kernels)}
        entries = [
            Entry(sum(self._bit[name] for name in record), refused)
            for record, refused in zip(records, ignored, strict=True)
        ]
        return EncodedItems(arrays, entries)

    def counts(self, items: Sequence[StoredItem]) -> tuple[Doubles, Array]:
        """Return the counters of M items, float64 [M, 3, S], and the number of each, int [M]."""
        counts = self.rates.counts([item.counters for item in items])
        return counts, np.count_nonzero(~np.isnan(counts[:, 0]), axis=1)

    def with_rates(
        self, numbers: Floats, counts: Doubles, now: int
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return the number columns with the statistics that counters give at a time.

        Also return true for each statistic that was clipped, bool [M, S].

        Args:
            numbers: float32 [M, K], which is written to.
            counts: float64 [M, 3, S].
            now: time in ms since 1970 UTC.
        """
        values, clipped = self.rates.values(counts, now)
        absent = np.isnan(values)
        if absent.any():
            np.copyto(values, numbers[:, self.rate_places], where=absent)
        numbers[:, self.rate_places] = values
        return numbers, clipped

    def item_rows(self, index: Integers, numbers: Floats, change: Doubles) -> Floats:
        """Return the generator's item rows, float32 [M, D]; D is 0 for a bundle without.

        Args:
            index: row of each item in the table, int64 [M].
            numbers: number columns of items, float32 [M, K].
            change: of each row by other features than statistics, float64 [M, D].
        """
        if self._half is None or self._weights is None:
            return np.zeros((len(index), 0), np.float32)
        if self._table_places:
            before = self._items.numbers.take(index, axis=0)[:, self._table_places]
            change = change + moved_by(numbers[:, self._statistic_places], before, self._weights)
        rows = self._half.rows.take(index, axis=0)
        rows += change
        return rows

    def find(self, ids: Sequence[str]) -> Integers:
        """Return the row of each item in the table, int64 [M]."""
        return self._ids.find(ids)

    def _change(
        self, index: Integers, numbers: Floats, tokens: Integers, names: Collection[str]
    ) -> Doubles:
        if self._half is None:
            return np.zeros((len(index), 0))
        return self._half.difference(index, numbers, tokens, names)

    def _fill(
        self, ids: Sequence[str], index: Integers, records: Sequence[Mapping[str, Any]]
    ) -> tuple[Floats, Integers, list[Encoded]]:
        """Return the numbers [M, F], tokens [M, T] and raw kernel rows of items with features.

        Raises FeatureError.
        """
        numbers = np.zeros((len(ids), self._layout.numbers_width), np.float32)
        tokens = np.zeros((len(ids), self._layout.tokens_width), np.int64)
        self._items.write(index, numbers, tokens)
        kernels = self._history.take(index)
        self._inline.fill(CandidateList(ids, features=records), numbers, tokens, kernels)
        return numbers, tokens, kernels

    def _allowed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the features whose values the schema allows."""
        return {name: v for name, v in record.items() if self._allows(self._features[name], v)}

    def _allows(self, feature: Feature, value: Any) -> bool:
        try:
            if feature.slots:
                self._layout.encode_tokens(feature, [value], feature.name)
            elif feature.kind in NUMBER_KINDS:
                encode_number(feature, value, feature.name)
            else:
                encode_vector(feature, value, feature.name)
        except FeatureError:
            return False
        return True
