"""Write and read a schema and the features of items as flat files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import (
    FEATURES,
    ITEM_IDS,
    ITEM_NUMBERS,
    ITEM_TOKENS,
    ITEM_WORDS,
    Floats,
    Integers,
    vector_file,
    vocabulary_prefix,
)
from service.engine.features.flat_files import read_array, write_array
from service.engine.features.id_index import HeldIds, Ids, read_ids, write_ids
from service.engine.features.schema import Schema

ITEM_ID = "item_id"
# A larger vocabulary lies in files of its own; a smaller one is read with the schema.
LARGE_VOCABULARY = 10_000
IN_FILES = "vocabularies_in_files"  # key of features.json: their sizes by feature

Array = npt.NDArray[Any]


class ItemWords(Ids):
    """The vocabulary of the feature item_id, whose values are ids of the item table.

    items: int32 [V], the item of each value, I for a value that the table lacks; tokens: token of
    each item, int [I + 1]; first_token: out-of-vocabulary token of the feature.
    """

    def __init__(self, ids: Ids, items: Array, tokens: Array, first_token: int) -> None:
        self._ids, self.items, self._tokens, self._first = ids, items, tokens, first_token

    def find(self, ids: Sequence[str]) -> Integers:
        places = self._tokens[self._ids.find(ids)].astype(np.int64) - (self._first + 1)
        places[places < 0] = len(self.items)
        return places

    def __len__(self) -> int:
        return len(self.items)

    def _text(self, position: int) -> str:
        item = int(self.items[position])
        return self._ids[item] if item < len(self._ids) else ""


@dataclass(frozen=True)
class ItemFiles:
    """The flat files of a bundle that do not belong to a network."""

    schema: Schema
    vocabularies: Mapping[str, Ids]  # those that the schema leaves out
    ids: Ids
    numbers: Floats
    tokens: Array
    vectors: Mapping[str, Floats]

    @classmethod
    def read(cls, directory: Path) -> ItemFiles:
        """Read the schema and map the rest. Raises SchemaError, OSError or ValueError."""
        payload = json.loads((directory / FEATURES).read_text(encoding="utf-8"))
        in_files = payload.pop(IN_FILES)
        schema = Schema.from_dict(payload)
        ids, tokens = read_ids(directory, ITEM_IDS), read_array(directory / ITEM_TOKENS)
        vocabularies: dict[str, Ids] = {}
        token, slot = 1, 0
        for place, feature in enumerate(schema.features):
            name = feature.name
            if name == ITEM_ID and name in in_files:
                items = read_array(directory / ITEM_WORDS)
                vocabularies[name] = ItemWords(ids, items, tokens[:, slot], token)
            elif name in in_files:
                vocabularies[name] = read_ids(directory, vocabulary_prefix(place))
            values = len(vocabularies[name]) if name in vocabularies else feature.values
            token += 1 + values if feature.slots else 0
            slot += feature.slots if feature.of == "item" else 0
        vectors = {
            feature.name: read_array(directory / vector_file(place))
            for place, feature in enumerate(schema.features)
            if feature.kind == "vector" and feature.of == "item"
        }
        numbers = read_array(directory / ITEM_NUMBERS)
        return cls(schema, vocabularies, ids, numbers, tokens, vectors)

    def write(self, directory: Path) -> None:
        """Write every file that `read` reads."""
        vocabularies = dict(self.vocabularies)
        features = []
        for place, feature in enumerate(self.schema.features):
            if feature.name == ITEM_ID and feature.slots and feature.buckets is None:
                words = vocabularies.setdefault(ITEM_ID, HeldIds(feature.vocabulary))
                write_array(directory / ITEM_WORDS, self.ids.find(list(words)).astype(np.int32))
            elif len(feature.vocabulary) > LARGE_VOCABULARY:
                vocabularies[feature.name] = HeldIds(feature.vocabulary)
            if feature.name in vocabularies:
                if feature.name != ITEM_ID:
                    words = vocabularies[feature.name]
                    write_ids(directory, vocabulary_prefix(place), list(words))
                feature = dataclasses.replace(feature, vocabulary=())
            features.append(feature)
            if feature.name in self.vectors:
                write_array(directory / vector_file(place), self.vectors[feature.name])
        payload = dataclasses.replace(self.schema, features=tuple(features)).to_dict()
        sizes = {name: len(words) for name, words in vocabularies.items()}
        text = json.dumps(payload | {IN_FILES: sizes}, ensure_ascii=False)
        (directory / FEATURES).write_text(text + "\n", encoding="utf-8")
        write_ids(directory, ITEM_IDS, list(self.ids))
        write_array(directory / ITEM_NUMBERS, self.numbers)
        write_array(directory / ITEM_TOKENS, self.tokens.astype(np.int32))
