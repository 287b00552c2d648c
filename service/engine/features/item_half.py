"""The half of a network's embedding that belongs to items, folded into one row for each item.

The embedding is linear in numbers and tokens until its first activation. The row of an item is its
numbers times their columns of the projection, plus the embeddings of its tokens; the bias stays in
the graph. Sums are in float64 and stored as float32.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.engine.contract import NETWORK_SUFFIXES, Floats, Integers
from service.engine.features.flat_files import create_array, read_array, write_array
from service.engine.features.item_arrays import ItemArrays
from service.engine.features.item_files import ITEM_ID, ItemWords
from service.engine.features.layout import Layout

ROWS_PER_BLOCK = 1 << 14

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """The weights that a network's embedding is linear in, in the order of the schema.

    projection float32 [F, D]; embeddings float32 [V, D] of every token.
    """

    projection: Floats
    embeddings: Floats


class ItemHalf:
    """The item rows of one network, and sums over its columns and embeddings; I items.

    rows        float32 [I + 1, D], the last one of an unknown item
    columns     float32 [C, D], the projection of each item column
    embeddings  float32 [V, D], of every token but those of the feature item_id, which the rows hold
    """

    def __init__(
        self, layout: Layout, items: ItemArrays, rows: Floats, columns: Floats, embeddings: Floats
    ) -> None:
        self.rows, self._columns, self._embeddings = rows, columns, embeddings
        self._layout, self._items = layout, items
        self._words = id_words(layout)
        self._id_slot = -1 if self._words is None else layout.slot[ITEM_ID]
        self._first_id, self._id_tokens = id_tokens(layout)
        item_slots = range(layout.request_tokens, layout.tokens_width)
        self._item_slots = [slot for slot in item_slots if slot != self._id_slot]

    @property
    def width(self) -> int:
        """Width D of a row."""
        return int(self.rows.shape[1])

    @classmethod
    def read(cls, directory: Path, network: str, layout: Layout, items: ItemArrays) -> ItemHalf:
        """Map the files of one network."""
        arrays = (read_array(directory / f"{network}.{name}") for name in NETWORK_SUFFIXES)
        return cls(layout, items, *arrays)

    @classmethod
    def write(
        cls, directory: Path, network: str, layout: Layout, items: ItemArrays, weights: Weights
    ) -> None:
        """Fold and write the rows of one network, a block of items at a time."""
        path = {name: directory / f"{network}.{name}" for name in NETWORK_SUFFIXES}
        first, count = id_tokens(layout)
        item_columns = layout.number_order[layout.request_numbers :]
        columns = weights.projection[item_columns]
        embeddings = np.concatenate(
            [weights.embeddings[:first], weights.embeddings[first + count :]]
        )
        shape = len(items.numbers), weights.projection.shape[1]
        rows = create_array(path["rows.npy"], shape, np.float32)
        half = cls(layout, items, rows, columns, embeddings)
        for start in range(0, shape[0], ROWS_PER_BLOCK):
            index = np.arange(start, min(start + ROWS_PER_BLOCK, shape[0]))
            folded = half.fold(index)
            if count:
                tokens = items.tokens[index, items.slot_of[half._id_slot]]
                folded += weights.embeddings[tokens]
            rows[index] = folded
        write_array(path["columns.npy"], columns)
        write_array(path["embeddings.npy"], embeddings)

    def write_updated(
        self,
        directory: Path,
        network: str,
        layout: Layout,
        items: ItemArrays,
        before: Integers,
        after: Integers,
    ) -> None:
        """Write the rows of this network for a table with new and changed items.

        A changed item keeps the embedding of its id; a new one has that of an unknown id.

        Args:
            directory: the new bundle.
            network: its name.
            layout: layout of the new bundle.
            items: its items; those that are not updated come first, as here.
            before: row of each updated item here, int64 [U]; -1 for a new one.
            after: its row in `items`.
        """
        path = {name: directory / f"{network}.{name}" for name in NETWORK_SUFFIXES}
        rows = create_array(path["rows.npy"], (len(items.numbers), self.width), np.float32)
        unknown = len(self.rows) - 1
        rows[:unknown], rows[-1] = self.rows[:-1], self.rows[-1]
        half = ItemHalf(layout, items, rows, self._columns, self._embeddings)
        for start in range(0, len(after), ROWS_PER_BLOCK):
            index = after[start : start + ROWS_PER_BLOCK]
            folded = half.fold(index)
            if self._words is not None:
                source = before[start : start + ROWS_PER_BLOCK]
                source = np.where(source < 0, unknown, source)
                folded += self.rows[source] - self.fold(source)
            rows[index] = folded
        write_array(path["columns.npy"], self._columns)
        write_array(path["embeddings.npy"], self._embeddings)

    def fold(self, index: Integers) -> Doubles:
        """Return the rows of items [M] without the embedding of their item_id, float64 [M, D]."""
        layout = self._layout
        numbers = np.empty((len(index), layout.numbers_width), np.float32)
        tokens = np.empty((len(index), layout.tokens_width), np.int64)
        self._items.write(index, numbers, tokens)
        columns = numbers[:, layout.request_numbers :].astype(np.float64)
        folded: Doubles = columns @ self._columns
        folded += self.embed(tokens[:, self._item_slots])
        return folded

    def embed(self, tokens: Integers) -> Doubles:
        """Return the sum of the embeddings of tokens [M, S] but of item_id, float64 [M, D]."""
        places = np.where(tokens < self._first_id, tokens, tokens - self._id_tokens)
        embedded = np.zeros((len(tokens), self.width))
        for slot in places.T:  # faster than one sum over a third axis
            embedded += self._embeddings.take(slot, axis=0)
        return embedded

    def embed_ids(self, tokens: Integers) -> Doubles:
        """Return the embedding of each token [M] of item_id, float64 [M, D].

        It is the rest of the row of an item with this id.
        """
        items = np.full(len(tokens), len(self.rows) - 1, np.int64)  # of the unknown item
        assert self._words is not None
        values = tokens - (self._first_id + 1)
        items[values >= 0] = self._words.items[values[values >= 0]]
        parts = self.rows[items] - self.fold(items)
        parts[tokens == 0] = 0.0  # of no value
        return parts

    def difference(
        self, index: Integers, numbers: Floats, tokens: Integers, names: Collection[str]
    ) -> Doubles:
        """Return the change of each row by other features of items, float64 [N, D].

        The change of a candidate depends in no bit on the other candidates, nor on names whose
        values are those of the table: sums go through the columns and slots one by one. Statistics
        are added last, so that they can be added to the change by all others.

        Args:
            index: row of each candidate in the item table.
            numbers: values of the features, float32 [N, F].
            tokens: tokens of the features, int64 [N, T].
            names: features of items that may differ from the table.
        """
        of_table, tokens_of_table = np.empty_like(numbers), np.empty_like(tokens)
        self._items.write_features(index, of_table, tokens_of_table, names)
        layout = self._layout
        changed = [feature for feature in layout.features.values() if feature.name in names]
        statistics = [feature.name for feature in changed if feature.kind == "statistic"]
        others = [feature for feature in changed if feature.kind != "statistic"]
        columns = [c for f in others if f.name in layout.column for c in layout.column_range(f)]
        moved = moved_by(numbers[:, columns], of_table[:, columns], self.weights(columns))
        for slot in (slot for f in others if f.slots for slot in layout.slot_range(f)):
            after, before = tokens[:, slot], tokens_of_table[:, slot]
            if slot == self._id_slot:
                moved += self.embed_ids(after) - self.embed_ids(before)
            elif (after != before).any():
                places = np.stack([after, before])
                places = np.where(places < self._first_id, places, places - self._id_tokens)
                embedded = self._embeddings.take(places, axis=0)
                moved += np.subtract(embedded[0], embedded[1], dtype=np.float64)
        if statistics:
            columns = [layout.column[name] for name in statistics]
            moved += moved_by(numbers[:, columns], of_table[:, columns], self.weights(columns))
        return moved

    def weights(self, columns: Sequence[int]) -> Doubles:
        """Return the projection of item columns of the layout, float64 [C, D]."""
        places = [column - self._layout.request_numbers for column in columns]
        return self._columns[places].astype(np.float64)


def moved_by(after: Floats, before: Floats, weights: Doubles) -> Doubles:
    """Return the change of rows by the change of C columns, float64 [N, D].

    A product of BLAS would round a row in a way that depends on the number of rows.

    Args:
        after: new values, float32 [N, C].
        before: old values.
        weights: projection of the columns, float64 [C, D].
    """
    change = after.astype(np.float64)
    change -= before
    moved: Doubles = np.einsum("nc,cd->nd", change, weights)
    return moved


def id_words(layout: Layout) -> ItemWords | None:
    """Return the vocabulary of the feature item_id, None if the schema has none."""
    words = layout.vocabularies.get(ITEM_ID)
    return words if isinstance(words, ItemWords) else None


def id_tokens(layout: Layout) -> tuple[int, int]:
    """Return the first token of the feature item_id and the number of its tokens, or 0."""
    words = id_words(layout)
    return (0, 0) if words is None else (layout.first_token[ITEM_ID], 1 + len(words))
