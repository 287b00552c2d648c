"""The candidate list of one request, as the featuriser reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.engine.features.ids import read_id


@dataclass(frozen=True)
class CandidateList:
    """One candidate list with its user, in the order of the initial ranking.

    history: (item id, label in 0..1), most recent last; features: one mapping per candidate, or
    none at all; scores likewise.
    """

    ids: Sequence[str]
    scores: Sequence[float | None] = ()
    features: Sequence[Mapping[str, Any]] = ()
    user_id: str | None = None
    user: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[tuple[str, float]] = ()
    context: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> CandidateList:
        """Build a list from the JSON body of `POST /rerank`, already validated."""
        candidates = payload["candidates"]
        user = payload.get("user") or {}
        inline = any(candidate.get("features") for candidate in candidates)
        return cls(
            ids=[read_id(candidate["id"]) for candidate in candidates],
            scores=[candidate.get("score") for candidate in candidates],
            features=[candidate.get("features") or {} for candidate in candidates]
            if inline
            else (),
            user_id=None if user.get("id") is None else read_id(user["id"]),
            user=user.get("features") or {},
            history=[
                (read_id(entry["id"]), entry.get("label", 1.0))
                if isinstance(entry, Mapping)
                else (read_id(entry), 1.0)
                for entry in user.get("history") or ()
            ],
            context=payload.get("context") or {},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the inverse of from_json: a JSON body of the same list."""
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
        features = {name: value for name, value in self.user.items() if value is not None}
        if features:
            user["features"] = features
        body: dict[str, Any] = {"user": user, "candidates": candidates}
        context = {name: value for name, value in self.context.items() if value is not None}
        return body | {"context": context} if context else body
