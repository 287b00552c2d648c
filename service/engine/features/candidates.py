"""The candidate list of one request, as the featuriser reads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from service.engine.features.encoding import Column, ColumnError
from service.engine.features.ids import read_id
from service.engine.features.stored_items import StoredItems


def as_plain(values: Column) -> Sequence[Any]:
    """Return an array as a list of Python's numbers, and any other column unchanged."""
    if isinstance(values, np.ndarray):
        plain: Sequence[Any] = values.tolist()
        return plain
    return values


@dataclass(frozen=True)
class CandidateList:
    """One candidate list with its user, in the order of the initial ranking.

    history: (item id, label in 0..1), most recent last; features: one mapping per candidate, or
    none at all; scores likewise. history_features: features of the items of the history, one
    mapping per entry, or none at all. columns: the same features by name, a value or None per
    candidate, or numbers [N] and vectors [N, width] as arrays. A list has features or columns.
    history_rates: of a train list only, the value of the schema's `history.rate` for each entry at
    its answer. user_is_partial: features of the user that the schema requires may be absent,
    because the entity store that has them failed. stored: the candidates as an entity store has
    them, None without one.
    """

    ids: Sequence[str]
    scores: Sequence[float | None] = ()
    features: Sequence[Mapping[str, Any]] = ()
    user_id: str | None = None
    user: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[tuple[str, float]] = ()
    history_features: Sequence[Mapping[str, Any]] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    history_rates: Sequence[float] = ()
    user_is_partial: bool = False
    stored: StoredItems | None = None

    def with_values(self, **values: Any) -> CandidateList:
        """Return the list with other values of some fields, as `replace` in a fifth of its time."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), **values)
        return other

    @property
    def inline(self) -> bool:
        """True if any inline features of candidates are present."""
        return bool(self.features or self.columns)

    def names(self) -> set[str]:
        """Return the names of the inline features."""
        return set(self.columns).union(*self.features)

    def table(self, allowed: Collection[str]) -> tuple[Sequence[str], Sequence[Collection[Any]]]:
        """Return the names of the features in records, and each candidate's values or None.

        Raises ColumnError if candidates have different names, not all of them `allowed`, because
        a table of names that each candidate chose would be far larger than its request.
        """
        names = list(map(tuple, self.features))
        if not names or names.count(names[0]) == len(names):
            return names[0] if names else (), [record.values() for record in self.features]
        every = tuple(dict.fromkeys(chain.from_iterable(names)))
        if not all(name in allowed for name in every):
            raise ColumnError
        return every, [tuple(map(record.get, every)) for record in self.features]

    def part(self, start: int, stop: int) -> CandidateList:
        """Return the list of the candidates start to stop alone."""
        return replace(
            self,
            ids=self.ids[start:stop],
            scores=self.scores[start:stop],
            features=self.features[start:stop],
            columns={name: values[start:stop] for name, values in self.columns.items()},
        )

    def by_candidate(self) -> Sequence[Mapping[str, Any]]:
        """Return the inline features of each candidate, in Python's types; none at all without."""
        if not self.columns:
            return self.features
        plain = [as_plain(values) for values in self.columns.values()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*plain, strict=True)]

    def values(self, name: str) -> Sequence[Any] | None:
        """Return each candidate's inline value of a feature, or None without inline features."""
        if self.features:
            return [record.get(name) for record in self.features]
        if not self.columns:
            return None
        column = self.columns.get(name)
        return [None] * len(self.ids) if column is None else as_plain(column)

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> CandidateList:
        """Build a list from the JSON body of `POST /rerank`, already validated."""
        candidates = payload["candidates"]
        user = payload.get("user") or {}
        inline = any(candidate.get("features") for candidate in candidates)
        entries = [
            entry if isinstance(entry, Mapping) else {"id": entry}
            for entry in user.get("history") or ()
        ]
        of_entries = [entry.get("features") or {} for entry in entries]
        return cls(
            ids=[read_id(candidate["id"]) for candidate in candidates],
            scores=[candidate.get("score") for candidate in candidates],
            features=[candidate.get("features") or {} for candidate in candidates]
            if inline
            else (),
            user_id=None if user.get("id") is None else read_id(user["id"]),
            user=user.get("features") or {},
            history=[(read_id(entry["id"]), entry.get("label", 1.0)) for entry in entries],
            history_features=of_entries if any(of_entries) else (),
            context=payload.get("context") or {},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the inverse of from_json: a JSON body of the same list."""
        candidates: list[dict[str, Any]] = [{"id": item} for item in self.ids]
        features = self.features or [
            {name: value for name, value in record.items() if value is not None}
            for record in self.by_candidate()
        ]
        for name, values in (("score", self.scores), ("features", features)):
            for candidate, value in zip(candidates, values, strict=False):
                if value or value == 0.0:
                    candidate[name] = value
        history: list[dict[str, Any]]
        history = [{"id": item, "label": label} for item, label in self.history]
        for entry, record in zip(history, self.history_features, strict=False):
            if record:
                entry["features"] = record
        user: dict[str, Any] = {"history": history}
        if self.user_id is not None:
            user["id"] = self.user_id
        of_user = {name: value for name, value in self.user.items() if value is not None}
        if of_user:
            user["features"] = of_user
        body: dict[str, Any] = {"user": user, "candidates": candidates}
        context = {name: value for name, value in self.context.items() if value is not None}
        return body | {"context": context} if context else body
