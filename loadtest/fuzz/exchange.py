"""One list of a request with its response, in whatever form it was sent."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from loadtest.fuzz.arrays import numbers_of
from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.ids import Id, canonical


@dataclass
class Exchange:
    """One list of a request and its response.

    slate and candidates have the canonical text of each id; sent_ids has the ids as they were sent.
    """

    request: dict[str, Any]
    response: dict[str, Any]
    bundle: Bundle
    info: dict[str, Any]  # of GET /info

    @functools.cached_property
    def slate(self) -> list[dict[str, Any]]:
        """The entries of the response."""
        return [{**entry, "id": canonical(entry["id"])} for entry in self.response["slate"]]

    @functools.cached_property
    def sent_ids(self) -> list[Id]:
        """The ids of the candidates, in whatever form the candidates were sent."""
        sent = self.request["candidates"]
        if isinstance(sent, dict):
            return list(sent["id"])
        return [entry["id"] if isinstance(entry, dict) else entry for entry in sent]

    @functools.cached_property
    def candidates(self) -> list[dict[str, Any]]:
        """The candidates as records, in whatever form they were sent."""
        sent, ids = self.request["candidates"], [{"id": canonical(i)} for i in self.sent_ids]
        if isinstance(sent, list):
            return [
                {**one, **entry} if isinstance(one, dict) else entry
                for one, entry in zip(sent, ids, strict=True)
            ]
        columns = {
            # Arrays hold numbers, which no check reads.
            field: [pair for pair in (sent.get(field) or {}).items() if isinstance(pair[1], list)]
            for field in ("features", "groups", "topics")
        }
        boosts = sent.get("boost")
        if isinstance(boosts, dict):
            boosts = numbers_of(boosts)
        return [
            {
                **entry,
                **{f: {n: values[i] for n, values in c} for f, c in columns.items()},
                "boost": boosts[i] if boosts else None,
            }
            for i, entry in enumerate(ids)
        ]

    @property
    def is_written(self) -> bool:
        """True if the entity store may have one of the candidates."""
        written = self.bundle.written
        return bool(written) and any(canonical(item) in written for item in self.sent_ids)

    def option(self, *keys: str) -> Any:
        """Return a value of the request, None when it or its parent is missing or null."""
        value: Any = self.request
        for key in keys:
            value = (value or {}).get(key)
        return value

    def blocked(self) -> set[str]:
        """Return the canonical ids that must not be in the slate."""
        return {canonical(item) for item in self.option("constraints", "blocked") or ()}

    def pinned(self) -> dict[str, int]:
        """Return the position of each pinned id, by its canonical text."""
        pinned = self.option("constraints", "pinned") or {}
        return {canonical(item): position for item, position in pinned.items()}

    def limit(self) -> tuple[str, int] | None:
        """Return the attribute of max_per_group and its quota."""
        return next(iter((self.option("constraints", "max_per_group") or {}).items()), None)
