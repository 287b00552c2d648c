"""Turn candidate lists into arrays; serving and training use this one featuriser.

A `Schema` declares the features; fitting (model.data.dataset) adds vocabularies, means and
deviations; a `Featuriser` joins a fitted schema with the item table and turns a candidate list into

    numbers  float32 [N, F]   numbers, list-relative numbers, vectors, history kernels
    tokens   int64   [N, T]   one global index space, 0 is no token

No row depends on the position of its candidate in the list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import FEATURES, ITEMS, STATISTICS, Floats, Integers
from service.engine.features.candidates import CandidateList
from service.engine.features.compared import ComparedColumns
from service.engine.features.encoding import FeatureError, encode_number, encode_vector
from service.engine.features.history import (
    HistoryKernels,
    PreparedHistory,
    expected_labels,
    history_width,
)
from service.engine.features.history_cache import HistoryCache
from service.engine.features.history_entries import HistoryEntries
from service.engine.features.id_index import HeldIds, Ids, pack_ids, unpack_ids
from service.engine.features.inline import InlineFeatures
from service.engine.features.item_arrays import ItemArrays, with_last_row
from service.engine.features.item_files import ItemFiles
from service.engine.features.item_half import ItemHalf
from service.engine.features.kernels import Kernel, KernelStack, TokenKernel, VectorKernel
from service.engine.features.layout import EncodedList, Layout
from service.engine.features.schema import NUMBER_KINDS, OWNERS, Feature, Schema
from service.engine.features.snapshot import Snapshot
from service.engine.features.stored_encoder import ItemEncoder
from service.engine.features.stored_items import StoredList
from service.engine.features.stored_rows import StoredRows


@dataclass(frozen=True)
class ItemTable:
    """The item features of every known item, encoded; I items.

    numbers float32 [I, P] (P number and statistic features of items, standardised),
    tokens int [I, Q] (their token slots), vectors name -> float32 [I, width].
    """

    ids: Sequence[str]
    numbers: Floats
    tokens: npt.NDArray[Any]
    vectors: Mapping[str, Floats]


class Featuriser:
    """A fitted schema with its item table; a native library may write its columns `compared`."""

    def __init__(
        self,
        schema: Schema,
        items: ItemTable,
        snapshot: Snapshot | None = None,
        layout: Layout | None = None,
        arrays: ItemArrays | None = None,
    ) -> None:
        """layout, arrays: the places of all features, and the same items in these places; by
        default, they are built for the order of the schema.
        """
        self.schema = schema
        self._snapshot = snapshot
        layout = layout or Layout(schema, history_width(schema.history))
        self._layout = layout
        self.numbers_width, self.tokens_width = layout.numbers_width, layout.tokens_width
        self.vocabulary_size = layout.vocabulary_size
        self._features_of = {
            owner: {feature.name: feature for feature in schema.features if feature.of == owner}
            for owner in OWNERS
        }
        self._required = {
            owner: [name for name, feature in features.items() if feature.required]
            for owner, features in self._features_of.items()
        }
        self._inline = InlineFeatures(layout, schema.history.kernels)
        self._default_numbers, self._default_tokens = self._defaults()
        self._ids = items.ids if isinstance(items.ids, Ids) else HeldIds(items.ids)
        self._items = arrays = self._with_unknown(items) if arrays is None else arrays
        vectors = {name: rows[:-1] for name, rows in arrays.vectors.items()}
        # Views: the table and the arrays share their memory.
        self.items = ItemTable(self._ids, arrays.numbers[:-1], arrays.tokens[:-1], vectors)
        self._history = HistoryKernels(
            KernelStack(
                [self._kernel(layout.features[name]) for name in schema.history.kernels],
                len(self._ids),
            ),
            self._expected_labels,
            schema.label,
        )
        self._entries = HistoryEntries(layout, self._ids, arrays, schema.history, self._history)
        self.compared = ComparedColumns(layout, len(schema.history.kernels))
        self._stored_rows: StoredRows | None = None

    @property
    def history_cache(self) -> HistoryCache[PreparedHistory] | None:
        """The cache of prepared histories, None unless `cache_histories` was called."""
        return self._history.cache

    def cache_histories(self, max_bytes: int, on_lookup: Callable[[bool], None]) -> None:
        """Keep the user's half of recent histories, for serving.

        Args:
            max_bytes: limit of the cache; 0 keeps none.
            on_lookup: is called with true for each history in the cache, and false for each other.
        """
        self._history.cache = HistoryCache(max_bytes, on_lookup) if max_bytes else None

    def _defaults(self) -> tuple[Floats, Integers]:
        """Return numbers [F] and tokens [T] of an unknown item in a request of ids alone."""
        layout = self._layout
        numbers = np.zeros((1, layout.numbers_width), np.float32)
        tokens = np.zeros((1, layout.tokens_width), np.int64)
        for feature in self.schema.features:
            self._write(feature, feature.default, numbers, tokens, slice(None), feature.name)
        item_id = layout.features.get("item_id")
        if item_id is not None and item_id.slots and item_id.of == "item":
            tokens[:, layout.slots(item_id)] = layout.first_token["item_id"]
        return numbers[0], tokens[0]

    def _with_unknown(self, items: ItemTable) -> ItemArrays:
        """Return the item table with a last row of the defaults, for unknown items."""
        layout, features = self._layout, self._features_of["item"].values()
        columns = [layout.column[f.name] for f in features if f.kind in NUMBER_KINDS]
        slots = [slot for f in features if f.slots for slot in layout.slot_range(f)]
        vectors = {
            f.name: with_last_row(items.vectors[f.name], encode_vector(f, f.default, f.name))
            for f in features
            if f.kind == "vector"
        }
        return ItemArrays(
            layout,
            with_last_row(items.numbers, self._default_numbers[columns]),
            with_last_row(items.tokens, self._default_tokens[slots]),
            vectors,
        )

    def _expected_labels(self, rows: Integers) -> Floats:
        """Return the expected label of items by the statistic `history.rate`, float32 [R]."""
        rate = self.schema.history.rate
        if rate is None:
            return expected_labels(None, np.zeros(len(rows), np.float32))
        encoded = self._items.numbers[rows, self._items.place[rate]]
        return expected_labels(self._layout.features[rate], encoded)

    def _kernel(self, feature: Feature) -> Kernel:
        """Return the history kernel of an item feature, over its raw rows of the item table."""
        if feature.kind == "vector":
            return VectorKernel(self._items.vectors[feature.name])
        layout = self._layout
        start = self._items.slot_of[layout.slot[feature.name]]
        return TokenKernel(
            self._items.tokens,
            slice(start, start + feature.slots),
            layout.first_token[feature.name],
            len(layout.vocabularies[feature.name]),
        )

    def transform(self, candidates: CandidateList) -> tuple[Floats, Integers]:
        """Return numbers float32 [N, F] and tokens int64 [N, T] of one candidate list.

        Columns and slots are in the order of the schema. Raises FeatureError for an inline feature
        that is unknown, of the wrong type, or missing though required.
        """
        encoded = self._encode(candidates, every_item_feature=True)
        return encoded.numbers, encoded.tokens

    def encode(self, candidates: CandidateList) -> EncodedList:
        """Return the features of a list as the session needs them. Raises FeatureError."""
        return self._encode(candidates, every_item_feature=True)

    def _encode(self, candidates: CandidateList, every_item_feature: bool) -> EncodedList:
        """Return the features of a list in the places of the layout.

        Unless `every_item_feature` is true, the features of items are left out that the request
        does not give and no column compares. Raises FeatureError.
        """
        layout, count = self._layout, len(candidates.ids)
        numbers = np.empty((count, layout.numbers_width), np.float32)
        tokens = np.empty((count, layout.tokens_width), np.int64)
        numbers[:], tokens[:] = self._default_numbers, self._default_tokens
        names = set[str]()
        if candidates.inline:  # values that a request leaves out are those of store or table
            names = candidates.names() & self._features_of["item"].keys()
        stored = self._take_stored(candidates, alone=not (every_item_feature or names))
        index = self._ids.find(candidates.ids) if stored is None else stored.index
        if every_item_feature:
            self._items.write(index, numbers, tokens)
        else:
            if stored is None or not stored.is_complete:
                self._items.write_compared(index, numbers)
            if names:
                names |= stored.names() if stored is not None else set()
                self._items.write_features(index, numbers, tokens, names)
        history, row_in_history = self._entries.prepare(candidates, index)
        overwritten = history is not None and (candidates.inline or (stored and stored.kernels))
        kernels = self._history.take(index) if overwritten else []
        if stored is not None and len(stored.entries):
            stored.write(numbers, tokens)
            if kernels and stored.kernels:
                stored.write_kernels(kernels)
        user = candidates.user
        if candidates.user_id is not None and "user_id" in layout.features:
            user = {**user, "user_id": candidates.user_id}
        self._fill("user", user, "user.features", numbers, tokens, slice(None))
        if not candidates.user_is_partial:
            self._check_required("user", user, "user.features")
        self._fill("context", candidates.context, "context", numbers, tokens, slice(None))
        self._check_required("context", candidates.context, "context")
        inline = self._inline.fill(candidates, numbers, tokens, kernels)
        past = None
        if history is not None:
            over = stored.over_units() if stored is not None else None
            past = self._history.compare(history, index, kernels, row_in_history, over)
        self.compared.fill(numbers, past)
        if stored is not None and names:
            inline = sorted(names)
        return EncodedList(numbers, tokens, index, inline, stored)

    def _take_stored(self, candidates: CandidateList, alone: bool) -> StoredList | None:
        """Return the stored items of a list; alone: they alone change the item rows."""
        if candidates.stored is None:
            return None
        if self._stored_rows is None:
            self.prepare_stored_rows()
        assert self._stored_rows is not None
        return self._stored_rows.take(candidates.ids, candidates.stored, alone, candidates.inline)

    def prepare_stored_rows(self) -> None:
        """Make room for the rows of stored items, which the first list would wait for."""
        self._stored_rows = StoredRows(self.stored_encoder())

    def stored_encoder(self) -> ItemEncoder:
        """Return an encoder of stored items."""
        return ItemEncoder(
            self.schema, self._layout, self._ids, self._items, self._history, self.snapshot,
            self._generator_half,
        )  # fmt: skip

    @property
    def _generator_half(self) -> ItemHalf | None:
        """The item rows of the generator, None for a bundle without."""
        return None

    def _fill(
        self,
        owner: str,
        values: Mapping[str, Any],
        path: str,
        numbers: Floats,
        tokens: Integers,
        rows: slice,
    ) -> None:
        features = self._features_of[owner]
        for name, value in values.items():
            if name not in features:
                raise FeatureError(f"{path}.{name}", "not a feature of the schema", value)
            if value is not None:
                self._write(features[name], value, numbers, tokens, rows, f"{path}.{name}")

    def _check_required(self, owner: str, values: Mapping[str, Any], path: str) -> None:
        for name in self._required[owner]:
            if values.get(name) is None:
                field = "user.id" if name == "user_id" else f"{path}.{name}"
                raise FeatureError(field, "required by the feature schema", None)

    def _write(
        self,
        feature: Feature,
        value: Any,
        numbers: Floats,
        tokens: Integers,
        rows: slice,
        path: str,
    ) -> None:
        """Encode one raw value into `rows`."""
        if feature.slots:
            slots = self._layout.slots(feature)
            tokens[rows, slots] = self._layout.encode_tokens(feature, [value], path)[0]
        elif feature.kind in NUMBER_KINDS:
            numbers[rows, self._layout.column[feature.name]] = encode_number(feature, value, path)
        elif feature.input:
            numbers[rows, self._layout.columns(feature)] = encode_vector(feature, value, path)
        else:
            encode_vector(feature, value, path)

    @property
    def snapshot(self) -> Snapshot | None:
        """The moment of the item table and the counts of its statistics; no request reads it."""
        return self._snapshot

    @property
    def layout(self) -> Layout:
        """The places of all features."""
        return self._layout

    def find(self, ids: Sequence[str]) -> Integers:
        """Return the row of each id in the item table, int64 [N]; len(items.ids) if it lacks it."""
        return self._ids.find(ids)

    def count_unknown(self, candidates: CandidateList) -> int:
        """Return the number of candidates that neither the item table nor a store has."""
        unknown = self._ids.find(candidates.ids) == len(self._ids)
        if candidates.stored is not None:
            unknown &= np.array([blob is None for blob in candidates.stored.blobs], np.bool_)
        return int(np.count_nonzero(unknown))

    def unknown_in(self, encoded: EncodedList) -> int:
        """Return the number of candidates that neither the item table nor a store has."""
        unknown, stored = encoded.index == len(self._ids), encoded.stored
        if stored is not None:
            unknown[stored.at] = False
        return int(np.count_nonzero(unknown))

    def is_hashed(self, name: str) -> bool:
        """True for a feature of the schema with buckets."""
        feature = self._layout.features.get(name)
        return feature is not None and feature.buckets is not None

    def column(self, name: str) -> int:
        """Return the column of `numbers` that holds a number or statistic, standardised."""
        return self._layout.number_order[self._layout.column[name]]

    def vocabulary(self, name: str) -> Ids:
        """Return the values of a feature with tokens, none of one with buckets."""
        words = self._layout.vocabularies[name]
        return words if isinstance(words, Ids) else HeldIds(())

    @property
    def request_columns(self) -> list[int]:
        """The columns of `numbers` that depend on the request, in ascending order."""
        layout = self._layout
        items = (f for f in layout.features.values() if f.of == "item" and f.name in layout.column)
        of_items = {layout.number_order[c] for f in items for c in layout.column_range(f)}
        return [column for column in range(self.numbers_width) if column not in of_items]

    def files(self) -> ItemFiles:
        """Return the schema and the item table as a bundle of item rows keeps them."""
        vocabularies, items = self._layout.vocabularies, self._items
        left_out = {
            feature.name: words
            for feature in self.schema.features
            if isinstance(words := vocabularies.get(feature.name), Ids)
            and len(words) != len(feature.vocabulary)
        }
        return ItemFiles(
            self.schema, left_out, self._ids, items.numbers, items.tokens, items.vectors
        )

    def save(self, directory: Path) -> None:
        """Write `features.json`, `items.npz` (no pickle), and `statistics.npz` of a snapshot."""
        text = json.dumps(self.schema.to_dict(), ensure_ascii=False)
        (directory / FEATURES).write_text(text + "\n", encoding="utf-8")
        arrays: dict[str, npt.NDArray[Any]] = {
            f"vector.{name}": rows for name, rows in self.items.vectors.items()
        }
        arrays |= pack_ids(self.items.ids)
        arrays["numbers"], arrays["tokens"] = self.items.numbers, self.items.tokens
        with (directory / ITEMS).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        (directory / STATISTICS).unlink(missing_ok=True)
        if self.snapshot is not None:
            self.snapshot.save(directory)

    @classmethod
    def load(cls, directory: Path) -> Featuriser:
        """Read the files of `save`. Raises SchemaError, OSError or ValueError for anything else."""
        payload = json.loads((directory / FEATURES).read_text(encoding="utf-8"))
        # Opened here, because numpy does not close a file that is no archive.
        with (directory / ITEMS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            items = ItemTable(
                ids=unpack_ids(arrays),
                numbers=arrays["numbers"],
                tokens=arrays["tokens"],
                vectors={
                    name.removeprefix("vector."): arrays[name]
                    for name in arrays.files
                    if name.startswith("vector.")
                },
            )
        return cls(Schema.from_dict(payload), items, Snapshot.load(directory))
