"""The columns and token slots of each feature, and the tokens of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from service.engine.contract import Floats, Integers
from service.engine.features.encoding import FeatureError
from service.engine.features.hashing import Buckets
from service.engine.features.id_index import HeldIds, Ids
from service.engine.features.ids import BLANKS, read_id
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema
from service.engine.features.stored_items import StoredList

RELATIVE = 3  # columns of a list-relative number: z-score, rank, distance from the best


@dataclass(slots=True)
class EncodedList:
    """The features of one list in the places of a layout.

    numbers float32 [N, F]; tokens int64 [N, T]; index int64 [N]: row of each candidate in the item
    table; inline: names of the features of items that the request gave, with those of stored items
    if there are any; stored: the stored items of the list, None without a store.
    """

    numbers: Floats
    tokens: Integers
    index: Integers
    inline: Sequence[str]
    stored: StoredList | None = None


class Layout:
    """The place of every feature of a schema in `numbers` and `tokens`.

    column, slot: first column or slot of a feature. first_token: its out-of-vocabulary token.
    vocabularies: the values of each feature with tokens. relative: (column, first list-relative
    column) of each list-relative number. history: first column of the history. numbers_width,
    tokens_width: number of columns and slots.

    Columns are in the order of the schema; with `items_last` those that depend on the request come
    before those of items alone, `request_numbers` and `request_tokens` in number, and each group
    keeps its order. number_order, token_order: the place of each column and slot in the order of
    the schema.
    """

    def __init__(
        self,
        schema: Schema,
        history_width: int = 0,
        items_last: bool = False,
        vocabularies: Mapping[str, Ids] = MappingProxyType({}),
    ) -> None:
        """vocabularies: those that the schema's features leave out, by name."""
        self.features = {feature.name: feature for feature in schema.features}
        self.column: dict[str, int] = {}
        self.slot: dict[str, int] = {}
        self.first_token: dict[str, int] = {}
        self.relative: list[tuple[int, int]] = []
        self.vocabularies: dict[str, Ids | Buckets] = {}
        of_item: list[bool] = []  # for each column: it belongs to an item alone
        slot_of_item: list[bool] = []
        token = 1
        for feature in schema.features:
            if feature.slots:
                self.first_token[feature.name] = token
                words = vocabularies.get(feature.name) or _words(feature)
                self.vocabularies[feature.name] = words
                token += 1 + len(words)
                self.slot[feature.name] = len(slot_of_item)
                slot_of_item += [feature.of == "item"] * feature.slots
            elif feature.kind in NUMBER_KINDS or feature.input:
                self.column[feature.name] = column = len(of_item)
                width = feature.width if feature.kind == "vector" else 1
                of_item += [feature.of == "item"] * width
                if feature.relative:
                    self.relative.append((column, column + 1))
                    of_item += [False] * RELATIVE
        self.history = len(of_item)
        of_item += [False] * history_width
        self.numbers_width, self.tokens_width = len(of_item), len(slot_of_item)
        self.vocabulary_size = token
        self.request_numbers, self.request_tokens = of_item.count(False), slot_of_item.count(False)
        self.number_order = _order(of_item, items_last)
        self.token_order = _order(slot_of_item, items_last)
        self._move(np.argsort(self.number_order).tolist(), np.argsort(self.token_order).tolist())

    def _move(self, column_at: Sequence[int], slot_at: Sequence[int]) -> None:
        """Replace each column and slot by its new place."""
        self.column = {name: column_at[column] for name, column in self.column.items()}
        self.slot = {name: slot_at[slot] for name, slot in self.slot.items()}
        self.relative = [(column_at[c], column_at[first]) for c, first in self.relative]
        self.history = column_at[self.history] if self.history < len(column_at) else self.history

    def column_range(self, feature: Feature) -> range:
        """Return the numbers of the columns of a number or of a vector that is an input."""
        start = self.column[feature.name]
        return range(start, start + (feature.width if feature.kind == "vector" else 1))

    def columns(self, feature: Feature) -> slice:
        """Return the columns of a vector that is an input of the network."""
        start = self.column[feature.name]
        return slice(start, start + feature.width)

    def slots(self, feature: Feature) -> slice:
        """Return the token slots of a feature."""
        start = self.slot[feature.name]
        return slice(start, start + feature.slots)

    def slot_range(self, feature: Feature) -> range:
        """Return the numbers of the token slots of a feature."""
        start = self.slot[feature.name]
        return range(start, start + feature.slots)

    def encode_tokens(self, feature: Feature, values: Sequence[Any], path: str) -> Integers:
        """Return tokens int64 [R, slots] of R values.

        None has the token 0, an unknown value the feature's first token, and with buckets none is
        unknown. Raises FeatureError.
        """
        words, first = self.vocabularies[feature.name], self.first_token[feature.name]
        tokens = np.zeros((len(values), feature.slots), np.int64)
        texts, rows, slots = [], [], []
        for row, value in enumerate(values):
            if value is None:
                entries: Sequence[Any] = ()
            elif feature.kind != "categories" or (feature.width == 1 and isinstance(value, str)):
                entries = (value,)
            elif isinstance(value, (list, tuple)):
                entries = value[: feature.width]
            else:
                raise FeatureError(path, "a list of strings", value)
            for slot, entry in enumerate(entries):
                try:  # text is read as it is, and a number as an id
                    text = entry if isinstance(entry, str) else read_id(entry)
                except ValueError:
                    raise FeatureError(path, "a string or an integer", entry) from None
                if feature.kind == "identifier":
                    text = text.strip(BLANKS)
                    if not text:  # as in a log, where blank is null
                        continue
                texts.append(text)
                rows.append(row)
                slots.append(slot)
        if texts:
            positions = words.find(texts)
            positions[positions == len(words)] = -1
            tokens[rows, slots] = positions + (first + 1)
        return tokens


def _words(feature: Feature) -> Ids | Buckets:
    """Return the values of a feature by position, or its buckets."""
    if feature.buckets is not None:
        return Buckets(feature.buckets)
    return HeldIds(feature.vocabulary)


def _order(of_item: Sequence[bool], items_last: bool) -> list[int]:
    """Return the columns of the schema's order, with `items_last` those of items last."""
    return sorted(range(len(of_item)), key=lambda column: items_last and of_item[column])


def places_of(numbers: Sequence[int]) -> slice | Integers:
    """Return columns or slots as an index; consecutive ones as a slice, which is faster."""
    if numbers and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return np.array(numbers, np.int64)
