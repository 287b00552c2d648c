"""Encode the inline features of candidates, column by column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers
from service.engine.features.candidates import CandidateList, as_plain
from service.engine.features.encoding import (
    Column,
    ColumnError,
    Doubles,
    FeatureError,
    Mask,
    encode_number,
    encode_numbers,
    encode_vector,
    encode_vectors,
    read_numbers,
)
from service.engine.features.kernels import Encoded
from service.engine.features.layout import Layout
from service.engine.features.schema import NUMBER_KINDS, Feature

REQUIRED = "required by the feature schema"
# Names of C features, their numbers float64 [C, N], and where a number is missing.
Block = tuple[Sequence[str], Doubles, Mask | None]
Rows = slice | npt.NDArray[np.int64]  # of the candidates with a value


def candidate_path(position: int, name: str, scored: bool) -> str:
    """Return the path of a candidate's feature; scored: the score has a field of its own."""
    if scored and name == "score":
        return f"candidates[{position}].score"
    return f"candidates[{position}].features.{name}"


class InlineFeatures:
    """Overwrites the rows of candidates by their inline features.

    Columns are checked as a whole. Only if that fails, the first candidate that breaks the schema
    is searched for, by halves of the list.
    """

    def __init__(
        self,
        layout: Layout,
        kernels: Sequence[str],
        owners: Collection[str] = ("item", "candidate"),
        unknown_rule: str = "not a feature of the schema",
        path_of: Callable[[int, str, bool], str] = candidate_path,
    ) -> None:
        """Read features of candidates, or of the entries of a history.

        Args:
            layout: places of all features.
            kernels: names of the item features of the history kernels, in their order.
            owners: owners of the features that are allowed.
            unknown_rule: the rule that any other feature breaks, in errors.
            path_of: returns the path of a feature, as `candidate_path` does.
        """
        self._layout, self._unknown_rule, self._path_of = layout, unknown_rule, path_of
        features = layout.features.items()
        self._allowed = {n: f for n, f in features if f.of in owners}
        self._of_candidates = [n for n, f in self._allowed.items() if f.of == "candidate"]
        self._numeric = frozenset(n for n, f in self._allowed.items() if f.kind in NUMBER_KINDS)
        self._required = [n for n in self._of_candidates if self._allowed[n].required]
        self._kernels = {name: index for index, name in enumerate(kernels)}

    def fill(
        self, candidates: CandidateList, numbers: Floats, tokens: Integers, kernels: list[Encoded]
    ) -> list[str]:
        """Write the features of candidates in place; return the names of those of items.

        Args:
            candidates: N candidates.
            numbers: float32 [N, F].
            tokens: int64 [N, T].
            kernels: per history kernel, raw rows [N, width]; empty without a history.

        Raises FeatureError for a feature that is unknown, of the wrong type, or missing though
        required.
        """
        if not (candidates.inline or self._of_candidates):
            return []
        try:
            names = self._fill(candidates, numbers, tokens, kernels)
        except (ColumnError, FeatureError):
            self._refuse_first(candidates, numbers, tokens)
            raise
        return [name for name in names if self._allowed[name].of == "item"]

    def _fill(
        self, candidates: CandidateList, numbers: Floats, tokens: Integers, kernels: list[Encoded]
    ) -> list[str]:
        """Write the features and return their names.

        Raises ColumnError or FeatureError, without its path, if any value breaks its schema.
        """
        blocks, columns = self._blocks(candidates)
        complete = {name for name, values in columns.items() if not _has_gaps(values)}
        for names, values, missing in blocks:
            features = [self._feature(name) for name in names]
            self._write_numbers(features, values, missing, numbers)
            gaps = np.zeros(len(names)) if missing is None else np.count_nonzero(missing, axis=1)
            complete.update(name for name, gap in zip(names, gaps, strict=True) if not gap)
        if not complete.issuperset(self._required):
            raise ColumnError
        for name, column in columns.items():
            if len(column) != len(numbers):
                raise ColumnError(name)
            feature = self._feature(name)
            rows, encoded = self._write_column(feature, column, numbers, tokens)
            if kernels and name in self._kernels:
                kernels[self._kernels[name]][rows] = encoded
        return [*columns, *chain.from_iterable(names for names, _, _ in blocks)]

    def _feature(self, name: str) -> Feature:
        """Return a feature of items or candidates. Raises ColumnError."""
        feature = self._allowed.get(name)
        if feature is None:
            raise ColumnError(name)
        return feature

    def _blocks(self, candidates: CandidateList) -> tuple[list[Block], dict[str, Column]]:
        """Return the numbers of all candidates in blocks, and every other column by name.

        Raises ColumnError.
        """
        scores, numeric = self._scores(candidates), self._numeric
        if scores is not None:
            numeric = numeric - {"score"}
        if candidates.features:
            blocks, others = _read_records(candidates, self._allowed, numeric)
        else:
            columns = candidates.columns.items()
            listed = {name: column for name, column in columns if name in numeric}
            blocks = [_block_of_columns(listed)] if listed else []
            others = {name: column for name, column in columns if name not in numeric}
        if scores is not None:
            others.pop("score", None)
            blocks.append(_block_of_columns({"score": scores}))
        return blocks, others

    def _scores(self, candidates: CandidateList) -> Column | None:
        """Return the score of each candidate, or else its inline feature of that name."""
        scores = candidates.scores
        if "score" not in self._of_candidates or all(score is None for score in scores):
            return None
        values = candidates.values("score") or [None] * len(scores)
        pairs = zip(scores, values, strict=True)
        return [value if score is None else score for score, value in pairs]

    def _write_numbers(
        self,
        features: Sequence[Feature],
        values: Doubles,
        missing: Mask | None,
        numbers: Floats,
    ) -> None:
        """Write numbers and statistics [C, N], except where they are missing."""
        if values.shape[1] != len(numbers):
            raise ColumnError
        encoded = encode_numbers(features, values, missing)
        columns = [self._layout.column[feature.name] for feature in features]
        if missing is not None:
            encoded = np.where(missing, numbers[:, columns].T, encoded)
        numbers[:, columns] = encoded.T

    def _write_column(
        self, feature: Feature, values: Column, numbers: Floats, tokens: Integers
    ) -> tuple[Rows, Encoded]:
        """Write tokens or vectors; return their rows, and themselves [R, width]."""
        rows, present = _present(values)
        if feature.slots:
            encoded = self._layout.encode_tokens(feature, as_plain(present), feature.name)
            tokens[rows, self._layout.slots(feature)] = encoded
            return rows, encoded
        vectors = encode_vectors(feature, present)
        if feature.input:
            numbers[rows, self._layout.columns(feature)] = vectors
        return rows, vectors

    def _refuse_first(self, candidates: CandidateList, numbers: Floats, tokens: Integers) -> None:
        """Raise FeatureError for the first value that breaks the schema, candidate by candidate.

        Each half is checked by column, so the search costs about as much as one check of the list:
        a refusal must not cost more than a response. It overwrites `numbers` and `tokens`.
        """
        start, stop = 0, len(candidates.ids)
        while stop - start > 1:
            middle = (start + stop) // 2
            try:
                rows = slice(start, middle)
                self._fill(candidates.part(start, middle), numbers[rows], tokens[rows], [])
            except (ColumnError, FeatureError):
                stop = middle
            else:
                start = middle
        if start < stop:
            self._refuse(candidates.part(start, stop), start)

    def _refuse(self, candidate: CandidateList, position: int) -> None:
        """Raise FeatureError for the first value of one candidate that breaks the schema.

        Args:
            candidate: a list of that candidate alone.
            position: its index in the request, for the path.
        """
        records, scores = candidate.by_candidate(), candidate.scores
        values = dict(records[0]) if records else {}
        score = scores[0] if scores and "score" in self._of_candidates else None
        if score is not None:
            values["score"] = score
        for name in self._required:
            if values.get(name) is None:
                raise FeatureError(self._path_of(position, name, True), REQUIRED, None)
        for name, value in values.items():
            feature = self._allowed.get(name)
            if feature is None:
                path = self._path_of(position, name, False)
                raise FeatureError(path, self._unknown_rule, value)
            path = self._path_of(position, name, score is not None)
            if feature.slots:
                self._layout.encode_tokens(feature, [value], path)
            elif feature.kind in NUMBER_KINDS:
                encode_number(feature, value, path)
            else:
                encode_vector(feature, value, path)


def _read_records(
    candidates: CandidateList, allowed: Collection[str], numeric: Collection[str]
) -> tuple[list[Block], dict[str, Column]]:
    """Return the `numeric` features of records as a block, and every other one as a column.

    Records are read candidate by candidate, as they lie in memory. Raises ColumnError.
    """
    names, cells = candidates.table(allowed)
    chosen = [index for index, name in enumerate(names) if name in numeric]
    others: dict[str, Column] = {}
    if len(chosen) < len(names):
        rows = list(map(tuple, cells))
        cells = [[row[index] for index in chosen] for row in rows]
        for index, name in enumerate(names):
            if name not in numeric:
                others[name] = [row[index] for row in rows]
    if not chosen:
        return [], others
    values, missing = read_numbers(list(chain.from_iterable(cells)))
    shape = len(cells), len(chosen)
    absent = None if missing is None else missing.reshape(shape).T
    return [([names[index] for index in chosen], values.reshape(shape).T, absent)], others


def _block_of_columns(columns: Mapping[str, Column]) -> Block:
    """Return columns of numbers as a block. Raises ColumnError."""
    height = len(next(iter(columns.values())))
    if any(len(column) != height for column in columns.values()):
        raise ColumnError
    listed = {n: c for n, c in columns.items() if not isinstance(c, np.ndarray)}
    arrays = {n: c for n, c in columns.items() if isinstance(c, np.ndarray)}
    values = np.empty((len(columns), height))
    plain, missing = read_numbers(list(chain.from_iterable(listed.values())))
    values[: len(listed)] = plain.reshape(len(listed), height)
    for row, (name, array) in enumerate(arrays.items(), start=len(listed)):
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise ColumnError(name)
        values[row] = array
    if missing is not None:
        none = np.zeros(len(arrays) * height, np.bool_)
        missing = np.append(missing, none).reshape(values.shape)
    return [*listed, *arrays], values, missing


def _has_gaps(values: Column) -> bool:
    return not isinstance(values, np.ndarray) and any(value is None for value in values)


def _present(values: Column) -> tuple[Rows, Column]:
    """Return the rows with a value, and those values."""
    if not _has_gaps(values):
        return slice(None), values
    rows = [row for row, value in enumerate(values) if value is not None]
    return np.array(rows, np.int64), [values[row] for row in rows]
