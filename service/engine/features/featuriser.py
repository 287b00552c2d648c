"""Request -> arrays: the one featuriser, for serving and for training alike.

A `Schema` declares the features; fitting (model.data.dataset) adds vocabularies, means and
deviations; a `Featuriser` joins a fitted schema with the item table and turns a `Request` into

    numbers  float32 [N, F]   numbers, list-relative numbers, vectors, history kernels
    tokens   int64   [N, T]   one global index space, 0 = nothing there

Nothing in a row depends on where in the list its candidate stands.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import FEATURES, ITEMS
from service.engine.features.schema import NUMBER_KINDS, OWNERS, Feature, Schema

# Farther than this from the train mean nothing was learnt, and float32 arithmetic would overflow.
LARGEST = 1e6
RELATIVE = 3  # columns of a list-relative number: z-score, rank, distance from the best
TOGETHER = 10  # columns of the history beyond those per kernel
RIDGE = 8.0  # of the kernel ridge regression, in units of one answer's similarity to itself
NEAREST = 10  # answers to similar items that are looked at closer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class FeatureError(ValueError):
    """An inline feature that breaks its schema: `path` (as in the request), `rule`, `value`."""

    def __init__(self, path: str, rule: str, value: object) -> None:
        super().__init__(f"{path}: {rule}, got {reprlib.repr(value)}")
        self.path, self.rule, self.value = path, rule, value


@dataclass(frozen=True)
class Request:
    """One candidate list with its user, in the order of the initial ranking.

    `history` holds (item id, label in 0..1), most recent last; `features` holds one mapping per
    candidate, or nothing at all.
    """

    ids: Sequence[str]
    scores: Sequence[float | None] = ()
    features: Sequence[Mapping[str, Any]] = ()
    user_id: str | None = None
    user: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[tuple[str, float]] = ()
    context: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> Request:
        """From the JSON body of `POST /rerank`, already validated."""
        candidates = payload["candidates"]
        user = payload.get("user") or {}
        inline = any(candidate.get("features") for candidate in candidates)
        return cls(
            ids=[candidate["id"] for candidate in candidates],
            scores=[candidate.get("score") for candidate in candidates],
            features=[candidate.get("features") or {} for candidate in candidates]
            if inline
            else (),
            user_id=user.get("id"),
            user=user.get("features") or {},
            history=[
                (entry, 1.0) if isinstance(entry, str) else (entry["id"], entry.get("label", 1.0))
                for entry in user.get("history") or ()
            ],
            context=payload.get("context") or {},
        )

    def to_json(self) -> dict[str, Any]:
        """The inverse: a body that asks for the same."""
        candidates: list[dict[str, Any]] = [{"id": item} for item in self.ids]
        for name, values in (("score", self.scores), ("features", self.features)):
            for candidate, value in zip(candidates, values, strict=False):
                if value or value == 0.0:
                    candidate[name] = value
        user: dict[str, Any] = {
            "history": [{"id": item, "label": label} for item, label in self.history]
        }
        if self.user_id is not None:
            user["id"] = self.user_id
        given = {name: value for name, value in self.user.items() if value is not None}
        if given:
            user["features"] = given
        body: dict[str, Any] = {"user": user, "candidates": candidates}
        context = {name: value for name, value in self.context.items() if value is not None}
        return body | {"context": context} if context else body


@dataclass(frozen=True)
class ItemTable:
    """The item features of every known item, encoded; I items.

    numbers float32 [I, P] (P number and statistic features of items, standardised),
    tokens int64 [I, Q] (their token slots), vectors name -> float32 [I, width].
    """

    ids: tuple[str, ...]
    numbers: Floats
    tokens: Integers
    vectors: Mapping[str, Floats]


class Featuriser:
    """A fitted schema and an item table; owns the mapping between item ids and table rows."""

    def __init__(self, schema: Schema, items: ItemTable) -> None:
        self.schema = schema
        self.items = items
        self._row = {item: index for index, item in enumerate(items.ids)}
        self._features = {feature.name: feature for feature in schema.features}
        self._first_token: dict[str, int] = {}
        self._tokens: dict[str, dict[str, int]] = {}
        self._slot: dict[str, int] = {}
        self._column: dict[str, int] = {}
        self._relative: list[tuple[int, int]] = []  # (source column, target column)
        token, slot, column = 1, 0, 0
        for feature in schema.features:
            if feature.slots:
                self._first_token[feature.name] = token  # the out-of-vocabulary token comes first
                self._tokens[feature.name] = {
                    value: token + 1 + index for index, value in enumerate(feature.vocabulary)
                }
                token += 1 + len(feature.vocabulary)
                self._slot[feature.name] = slot
                slot += feature.slots
            elif feature.kind in NUMBER_KINDS:
                self._column[feature.name] = column
                column += 1
                if feature.relative:
                    self._relative.append((column - 1, column))
                    column += RELATIVE
            elif feature.input:
                self._column[feature.name] = column
                column += feature.width
        self._history_column = column
        kernels = schema.history.kernels
        # Per kernel: sum, mean and the list-relative mean; then what all kernels say together.
        self.numbers_width = column + (3 * len(kernels) + TOGETHER if kernels else 0)
        self.tokens_width = slot
        self.vocabulary_size = token
        self._of = {
            owner: {feature.name: feature for feature in schema.features if feature.of == owner}
            for owner in OWNERS
        }
        self._required = {
            owner: [name for name, feature in features.items() if feature.required]
            for owner, features in self._of.items()
        }
        self._build_templates()

    def _build_templates(self) -> None:
        """Lay the item table out as whole rows, so that a request costs one gather per array.

        Row I, the last, is the unknown item.
        """
        count = len(self.items.ids)
        numbers = np.zeros((count + 1, self.numbers_width), np.float32)
        tokens = np.zeros((count + 1, self.tokens_width), np.int64)
        for feature in self.schema.features:  # declared defaults first, the table over them
            self._write(feature, feature.default, numbers, tokens, slice(None), feature.name)
        number, slot = 0, 0
        for feature in self._of["item"].values():
            if feature.kind in NUMBER_KINDS:
                numbers[:count, self._column[feature.name]] = self.items.numbers[:, number]
                number += 1
            elif feature.slots:
                start = self._slot[feature.name]
                stop = start + feature.slots
                tokens[:count, start:stop] = self.items.tokens[:, slot : slot + feature.slots]
                slot += feature.slots
                if feature.name == "item_id":
                    tokens[count, start] = self._first_token["item_id"]
            elif feature.input:
                start = self._column[feature.name]
                numbers[:count, start : start + feature.width] = self.items.vectors[feature.name]
        self._numbers, self._token_rows = numbers, tokens
        self._kernels = [self._kernel_rows(self._features[k]) for k in self.schema.history.kernels]
        rate = self.schema.history.rate
        if rate is None:
            self._rate = np.full(count + 1, 0.5, np.float32)
        else:
            logit = numbers[:, self._column[rate]] * self._features[rate].std
            self._rate = 1.0 / (1.0 + np.exp(-(logit + self._features[rate].mean)))

    def _kernel_rows(self, feature: Feature) -> Floats:
        """Unit vectors float32 [I + 1, width] whose inner products are the kernel."""
        if feature.kind == "vector":
            rows = np.zeros((len(self.items.ids) + 1, feature.width), np.float32)
            rows[:-1] = self.items.vectors[feature.name]
        else:
            start = self._slot[feature.name]
            rows = self._bag(feature, self._token_rows[:, start : start + feature.slots])
        return _unit(rows)

    def _bag(self, feature: Feature, tokens: Integers) -> Floats:
        """Token slots int64 [R, width] -> counts float32 [R, vocabulary], unknown ones left out."""
        index = tokens - (self._first_token[feature.name] + 1)
        bag = np.zeros((len(tokens), len(feature.vocabulary)), np.float32)
        rows, slots = np.nonzero(index >= 0)
        bag[rows, index[rows, slots]] = 1.0
        return bag

    def transform(self, request: Request) -> tuple[Floats, Integers]:
        """numbers float32 [N, F] and tokens int64 [N, T] of one request.

        Raises FeatureError for an inline feature that is unknown, of the wrong type, or missing
        though required.
        """
        unknown = len(self.items.ids)
        row = self._row
        index = np.array([row.get(item, unknown) for item in request.ids], np.int64)
        numbers, tokens = self._numbers.take(index, axis=0), self._token_rows.take(index, axis=0)
        history = self._known(request.history)
        kernels = [rows[index] for rows in self._kernels] if history else []
        user = request.user
        if request.user_id is not None and "user_id" in self._features:
            user = {**user, "user_id": request.user_id}
        self._fill("user", user, "user.features", numbers, tokens, slice(None))
        self._fill("context", request.context, "context", numbers, tokens, slice(None))
        self._fill_candidates(request, numbers, tokens, kernels)
        if self._relative:
            # All columns at once, each a contiguous row: a call into numpy costs more than a list.
            values = np.array([numbers[:, source] for source, _ in self._relative])
            best = values.max(axis=1, keepdims=True, initial=-np.inf)
            told = np.array([_z_score(values), _rank(values), values - best])
            for which, (_, target) in enumerate(self._relative):
                numbers[:, target : target + RELATIVE] = told[:, which].T
        if history:
            self._fill_history(history, numbers, index, kernels)
        return numbers, tokens

    def _known(self, history: Sequence[tuple[str, float]]) -> list[tuple[int, float]]:
        """Table row and label of the recent answers that kernels can use."""
        if not (history and self._kernels):
            return []
        recent = history[-self.schema.history.limit :]
        return [(self._row[item], label) for item, label in recent if item in self._row]

    def _fill_candidates(
        self, request: Request, numbers: Floats, tokens: Integers, kernels: list[Floats]
    ) -> None:
        if not (request.features or self._of["candidate"]):
            return
        allowed = self._of["item"] | self._of["candidate"]
        for position in range(len(request.ids)):
            values = dict(request.features[position]) if request.features else {}
            path = f"candidates[{position}].features"
            if "score" in self._of["candidate"] and request.scores:
                score = request.scores[position]
                if score is not None:
                    values["score"] = score
            for name in self._required["candidate"]:
                if values.get(name) is None:
                    raise FeatureError(f"{path}.{name}", "required by the feature schema", None)
            for name, value in values.items():
                if name not in allowed:
                    raise FeatureError(f"{path}.{name}", "not a feature of the schema", value)
                if value is None:
                    continue
                row = slice(position, position + 1)
                feature = allowed[name]
                vector = self._write(feature, value, numbers, tokens, row, f"{path}.{name}")
                if kernels and name in self.schema.history.kernels:
                    if feature.kind == "categories":
                        start = self._slot[name]
                        vector = self._bag(feature, tokens[row, start : start + feature.slots])
                    assert vector is not None
                    which = self.schema.history.kernels.index(name)
                    kernels[which][row] = _unit(vector.reshape(1, -1))

    def _fill(
        self,
        owner: str,
        values: Mapping[str, Any],
        path: str,
        numbers: Floats,
        tokens: Integers,
        rows: slice,
    ) -> None:
        features = self._of[owner]
        for name, value in values.items():
            if name not in features:
                raise FeatureError(f"{path}.{name}", "not a feature of the schema", value)
            if value is not None:
                self._write(features[name], value, numbers, tokens, rows, f"{path}.{name}")
        for name in self._required[owner]:
            if values.get(name) is None:
                raise FeatureError(f"{path}.{name}", "required by the feature schema", None)

    def _write(
        self,
        feature: Feature,
        value: Any,
        numbers: Floats,
        tokens: Integers,
        rows: slice,
        path: str,
    ) -> Floats | None:
        """Encode one raw value into `rows`; returns the vector where the feature is one."""
        if feature.slots:
            start = self._slot[feature.name]
            tokens[rows, start : start + feature.slots] = self.encode_tokens(feature, value, path)
        elif feature.kind in NUMBER_KINDS:
            numbers[rows, self._column[feature.name]] = encode_number(feature, value, path)
        else:
            vector = encode_vector(feature, value, path)
            if feature.input:
                start = self._column[feature.name]
                numbers[rows, start : start + feature.width] = vector
            return vector
        return None

    def encode_tokens(self, feature: Feature, value: Any, path: str) -> Integers:
        """Raw value -> int64 [slots]; None is no token, an unknown value its first one."""
        slots = np.zeros(feature.slots, np.int64)
        if value is None:
            return slots
        if feature.kind == "categories":
            if not isinstance(value, (list, tuple)):
                raise FeatureError(path, "a list of strings", value)
            values = value[: feature.width]
        else:
            values = [value]
        vocabulary, first = self._tokens[feature.name], self._first_token[feature.name]
        for slot, entry in enumerate(values):
            if isinstance(entry, bool) or not isinstance(entry, (str, int)):
                raise FeatureError(path, "a string or an integer", entry)
            slots[slot] = vocabulary.get(str(entry), first)
        return slots

    def _fill_history(
        self,
        known: Sequence[tuple[int, float]],
        numbers: Floats,
        index: Integers,
        kernels: list[Floats],
    ) -> None:
        """Kernel regression of this user's surprises onto each candidate, per item feature."""
        rows = np.array([row for row, _ in known], np.int64)
        labels = np.array([label for _, label in known], np.float32)
        surprise = labels - self._rate[rows]
        column = self._history_column
        judged = []  # what each candidate is also told in comparison with the list's others
        to_history = np.zeros((len(index), len(rows)), np.float32)
        among_history = np.zeros((len(rows), len(rows)), np.float32)
        for candidates, table in zip(kernels, self._kernels, strict=True):
            own = table[rows]
            similarity = candidates @ own.T  # [N, H]
            to_history += similarity / len(kernels)
            among_history += (own @ own.T) / len(kernels)
            total = similarity @ surprise
            numbers[:, column] = total / math.sqrt(len(rows))
            judged.append(total / (np.abs(similarity).sum(axis=1) + 1.0))
            column += 3
        # What the user's answers say together: a ridge regression in the kernels' mean, ...
        among_history[np.diag_indices(len(rows))] += RIDGE
        ridge = to_history @ np.linalg.solve(among_history, surprise)
        # ... and the nearest of them.
        nearest = np.argpartition(-to_history, min(NEAREST, len(rows)) - 1, axis=1)[:, :NEAREST]
        near = np.take_along_axis(to_history, nearest, axis=1)
        echo = (near * surprise[nearest]).sum(axis=1)
        liked = labels > 0.5
        judged += [ridge, echo]
        standard = _z_score(np.array(judged, np.float32))
        for kernel in range(len(kernels)):
            numbers[:, self._history_column + 3 * kernel + 1] = judged[kernel]
            numbers[:, self._history_column + 3 * kernel + 2] = standard[kernel]
        for values in (
            ridge,
            standard[-2],
            near.mean(axis=1),
            echo,
            standard[-1],
            to_history[:, liked].max(axis=1, initial=0.0),
            to_history[:, ~liked].max(axis=1, initial=0.0),
        ):
            numbers[:, column] = values
            column += 1
        answered = dict(known)  # the most recent answer to an item counts
        for position, row in enumerate(index.tolist()):
            if row in answered:
                numbers[position, column] = answered[row]
                numbers[position, column + 1] = 1.0 - answered[row]
        numbers[:, column + 2] = math.log1p(len(rows)) / 4.0

    def unknown(self, ids: Sequence[str]) -> int:
        """How many of these ids the item table lacks."""
        return sum(item not in self._row for item in ids)

    def groups(self, name: str, tokens: Integers) -> list[int | None]:
        """Each candidate's value of a category or identifier, as its token in `transform`'s rows.

        None where it has none that the model knows by name. Raises KeyError for another feature.
        """
        slot, first = self._slot[name], self._first_token[name]
        if self._features[name].slots != 1:
            raise KeyError(name)
        return [token if token > first else None for token in tokens[:, slot].tolist()]

    def column(self, name: str) -> int:
        """The column of `numbers` that holds a number or statistic, standardised."""
        return self._column[name]

    def save(self, directory: Path) -> None:
        """Write `features.json` and `items.npz` (no pickle)."""
        text = json.dumps(self.schema.to_dict(), ensure_ascii=False)
        (directory / FEATURES).write_text(text + "\n", encoding="utf-8")
        arrays: dict[str, npt.NDArray[Any]] = {
            f"vector.{name}": rows for name, rows in self.items.vectors.items()
        }
        arrays["ids"] = np.array(self.items.ids, dtype=np.str_)
        arrays["numbers"], arrays["tokens"] = self.items.numbers, self.items.tokens
        with (directory / ITEMS).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, directory: Path) -> Featuriser:
        """Read what `save` wrote. Raises SchemaError, OSError or ValueError for anything else."""
        payload = json.loads((directory / FEATURES).read_text(encoding="utf-8"))
        # Opened here: numpy leaves a file open that is no archive.
        with (directory / ITEMS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            items = ItemTable(
                ids=tuple(arrays["ids"].tolist()),
                numbers=arrays["numbers"],
                tokens=arrays["tokens"],
                vectors={
                    name.removeprefix("vector."): arrays[name]
                    for name in arrays.files
                    if name.startswith("vector.")
                },
            )
        return cls(Schema.from_dict(payload), items)


def encode_number(feature: Feature, value: Any, path: str) -> float:
    """Raw value -> standardised number; None is the train mean, 0."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FeatureError(path, "a finite number", value)
    encoded = (feature.transformed(float(value)) - feature.mean) / feature.std
    if abs(encoded) > LARGEST:
        raise FeatureError(path, f"within {LARGEST:.0e} deviations of the train mean", value)
    return encoded


def encode_vector(feature: Feature, value: Any, path: str) -> Floats:
    """Raw value -> float32 [width]; None is the zero vector."""
    if value is None:
        return np.zeros(feature.width, np.float32)
    rule = f"a list of {feature.width} numbers of size {LARGEST:.0e} at most"
    numbers = value if isinstance(value, (list, tuple)) else ()
    if len(numbers) != feature.width or not all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= LARGEST
        for x in numbers
    ):
        raise FeatureError(path, rule, value)
    return np.array(numbers, np.float32)


def _z_score(rows: Floats) -> Floats:
    """Along the last axis."""
    exact = rows.astype(np.float64)  # in float32 the mean of equal numbers is not that number
    # By hand what mean() and std() do: their own overhead is most of their time on a short list.
    count = exact.shape[-1]
    exact -= np.add.reduce(exact, axis=-1, keepdims=True) / count
    deviation = np.sqrt(np.add.reduce(exact * exact, axis=-1, keepdims=True) / count)
    return np.asarray(exact / (deviation + 1e-6), np.float32)


def _rank(rows: Floats) -> Floats:
    """In each row: from -1, the least, to 1, the greatest; equals share the mean of their ranks."""
    twice = np.empty(rows.shape, np.int64)
    for values, ordered, ranks in zip(rows, np.sort(rows, axis=1), twice, strict=True):
        np.add(ordered.searchsorted(values), ordered.searchsorted(values, "right"), out=ranks)
    count = rows.shape[1]
    return np.asarray((twice - count) / max(count, 1), np.float32)


def _unit(rows: Floats) -> Floats:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norm, 1e-9), np.float32)
