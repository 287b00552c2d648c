"""Turn candidate lists into item rows and the columns that depend on the request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from service.engine.contract import NETWORKS, Floats, Integers
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.history import history_width
from service.engine.features.item_arrays import ItemArrays
from service.engine.features.item_files import ItemFiles
from service.engine.features.item_half import ItemHalf, Weights
from service.engine.features.layout import EncodedList, Layout
from service.engine.features.snapshot import Snapshot

GENERATOR_ROWS = NETWORKS[0]


class RowFeaturiser(Featuriser):
    """A featuriser over memory-mapped files, for graphs that read item rows.

    request_width: number of columns that depend on the request.
    """

    def __init__(
        self, directory: Path, files: ItemFiles, layout: Layout, arrays: ItemArrays
    ) -> None:
        table = ItemTable(files.ids, arrays.numbers, arrays.tokens, arrays.vectors)
        super().__init__(files.schema, table, layout=layout, arrays=arrays)
        self._directory = directory
        self.request_width = layout.request_numbers
        self.halves: Mapping[str, ItemHalf] = {}
        self._column_at = np.argsort(layout.number_order)
        self._slot_at = np.argsort(layout.token_order)
        shared = [f for f in files.schema.features if f.slots and f.of in ("user", "context")]
        alone = [f for f in files.schema.features if f.slots and f.of == "candidate"]
        self._shared_slots = [slot for f in shared for slot in layout.slot_range(f)]
        self._candidate_slots = [slot for f in alone for slot in layout.slot_range(f)]

    @property
    def snapshot(self) -> Snapshot | None:
        return Snapshot.load(self._directory)

    def encode(self, candidates: CandidateList) -> EncodedList:
        """Return the features of a list that depend on the request. Raises FeatureError."""
        return self._encode(candidates, every_item_feature=False)

    def rows(self, encoded: EncodedList, network: str) -> Floats:
        """Return the row of each candidate for one network, float32 [N, D].

        Tokens of the request are added, and inline features of items change the row as if the item
        table had held them.
        """
        half, tokens, stored = self.halves[network], encoded.tokens, encoded.stored
        of_stored = None
        if network == GENERATOR_ROWS and stored is not None and not encoded.inline:
            of_stored = stored.rows
        if stored is not None and of_stored is not None and stored.is_complete:
            rows = of_stored.copy()
        else:
            rows = half.rows.take(encoded.index, axis=0)
            if encoded.inline:
                rows += half.difference(encoded.index, encoded.numbers, tokens, encoded.inline)
            elif stored is not None and of_stored is not None:
                rows[stored.at] = of_stored
            elif stored is not None and len(stored.entries):
                at = stored.at
                rows[at] += half.difference(
                    encoded.index[at], encoded.numbers[at], tokens[at], stored.names()
                )
        if self._shared_slots:
            rows += half.embed(tokens[:1, self._shared_slots])
        if self._candidate_slots:
            rows += half.embed(tokens[:, self._candidate_slots])
        return rows

    @property
    def _generator_half(self) -> ItemHalf | None:
        return self.halves.get(GENERATOR_ROWS)

    def transform(self, candidates: CandidateList) -> tuple[Floats, Integers]:
        numbers, tokens = super().transform(candidates)
        return numbers[:, self._column_at], tokens[:, self._slot_at]

    def tokens(self, encoded: EncodedList) -> Integers:
        """Return tokens int64 [N, T] of an encoded list, in the order of the schema."""
        tokens = encoded.tokens.copy()
        self._items.write_tokens(encoded.index, tokens)
        if encoded.stored is not None:
            encoded.stored.write_tokens(tokens)
        layout = self._layout
        for feature in (layout.features[name] for name in encoded.inline):
            if feature.slots:
                tokens[:, layout.slots(feature)] = encoded.tokens[:, layout.slots(feature)]
        return tokens[:, self._slot_at]

    @classmethod
    def load(cls, directory: Path) -> RowFeaturiser:
        """Map the files of a bundle. Raises SchemaError, OSError or ValueError."""
        files, layout, arrays = open_files(directory)
        featuriser = cls(directory, files, layout, arrays)
        featuriser.halves = {
            network: ItemHalf.read(directory, network, layout, arrays) for network in NETWORKS
        }
        return featuriser


def open_files(directory: Path) -> tuple[ItemFiles, Layout, ItemArrays]:
    """Map the schema and the features of items, laid out with the items last."""
    files = ItemFiles.read(directory)
    history = history_width(files.schema.history)
    layout = Layout(files.schema, history, True, files.vocabularies)
    return files, layout, ItemArrays(layout, files.numbers, files.tokens, files.vectors)


def write_rows(directory: Path, featuriser: Featuriser, weights: Mapping[str, Weights]) -> None:
    """Write the item features of a featuriser, and the item rows of each network."""
    featuriser.files().write(directory)
    _, layout, arrays = open_files(directory)
    for network in NETWORKS:
        ItemHalf.write(directory, network, layout, arrays, weights[network])
