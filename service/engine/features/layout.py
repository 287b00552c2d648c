"""The columns and token slots of each feature, and the tokens of its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.contract import Floats, Integers
from service.engine.features.encoding import FeatureError
from service.engine.features.ids import BLANKS, read_id
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema

RELATIVE = 3  # columns of a list-relative number: z-score, rank, distance from the best


class Layout:
    """The place of every feature of a schema in `numbers` and `tokens`.

    column, slot: first column or slot of a feature. first_token: its out-of-vocabulary token.
    relative: (column, first list-relative column) of each list-relative number. numbers_width:
    columns before those of the history.
    """

    def __init__(self, schema: Schema) -> None:
        self.features = {feature.name: feature for feature in schema.features}
        self.column: dict[str, int] = {}
        self.slot: dict[str, int] = {}
        self.first_token: dict[str, int] = {}
        self.relative: list[tuple[int, int]] = []
        self._tokens: dict[str, dict[str, int]] = {}
        token, slot, column = 1, 0, 0
        for feature in schema.features:
            if feature.slots:
                self.first_token[feature.name] = token
                self._tokens[feature.name] = {
                    value: token + 1 + index for index, value in enumerate(feature.vocabulary)
                }
                token += 1 + len(feature.vocabulary)
                self.slot[feature.name] = slot
                slot += feature.slots
            elif feature.kind in NUMBER_KINDS:
                self.column[feature.name] = column
                column += 1
                if feature.relative:
                    self.relative.append((column - 1, column))
                    column += RELATIVE
            elif feature.input:
                self.column[feature.name] = column
                column += feature.width
        self.numbers_width, self.tokens_width, self.vocabulary_size = column, slot, token

    def columns(self, feature: Feature) -> slice:
        """Return the columns of a vector that is an input of the network."""
        start = self.column[feature.name]
        return slice(start, start + feature.width)

    def slots(self, feature: Feature) -> slice:
        """Return the token slots of a feature."""
        start = self.slot[feature.name]
        return slice(start, start + feature.slots)

    def bag(self, feature: Feature, tokens: Integers) -> Floats:
        """Return 0 or 1 per known value, float32 [R, vocabulary], of tokens int64 [R, width]."""
        index = tokens - (self.first_token[feature.name] + 1)
        bag = np.zeros((len(tokens), len(feature.vocabulary)), np.float32)
        rows, slots = np.nonzero(index >= 0)
        bag[rows, index[rows, slots]] = 1.0
        return bag

    def encode_tokens(self, feature: Feature, values: Sequence[Any], path: str) -> Integers:
        """Return tokens int64 [R, slots] of R values.

        None has the token 0, an unknown value the feature's first token. Raises FeatureError.
        """
        vocabulary, first = self._tokens[feature.name], self.first_token[feature.name]
        rows = []
        for value in values:
            if value is None:
                entries: Sequence[Any] = ()
            elif feature.kind != "categories" or (feature.width == 1 and isinstance(value, str)):
                entries = (value,)
            elif isinstance(value, (list, tuple)):
                entries = value[: feature.width]
            else:
                raise FeatureError(path, "a list of strings", value)
            row = [0] * feature.slots
            for slot, entry in enumerate(entries):
                try:  # text is read as it is, and a number as an id
                    text = entry if isinstance(entry, str) else read_id(entry)
                except ValueError:
                    raise FeatureError(path, "a string or an integer", entry) from None
                if feature.kind == "identifier":
                    text = text.strip(BLANKS)
                    if not text:  # as in a log, where blank is null
                        continue
                row[slot] = vocabulary.get(text, first)
            rows.append(row)
        return np.array(rows, np.int64).reshape(len(rows), feature.slots)
