"""The lists of one day, and what they were answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.study.known_world import SLATE, KnownWorld, Lists

Array = np.ndarray[Any, Any]


@dataclass
class ServedDay:
    """A day of L lists.

    Args:
        slates: places in the list of each displayed candidate, int [L, K].
        versions: lists by the version that answered; steps: reasoning steps of all lists.
    """

    number: int
    lists: Lists
    versions: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    def __post_init__(self) -> None:
        self.slates = np.zeros((len(self.lists), SLATE), np.int64)

    def rows_of(self, number: int) -> Array:
        """Return the rows of the lists of a round, int [R]."""
        return np.flatnonzero(self.lists.round == number)

    def requests(self, rows: Array) -> list[dict[str, Any]]:
        """Return the requests for lists: ids alone."""
        return [
            {
                "request_id": f"d{self.number}-{row}",
                "user": {"id": f"u{self.lists.user[row]}"},
                "candidates": [f"i{item}" for item in self.lists.item[row].tolist()],
            }
            for row in rows.tolist()
        ]

    def record(self, rows: Array, responses: Sequence[Mapping[str, Any]]) -> None:
        """Keep the responses to the requests of lists."""
        for row, response in zip(rows.tolist(), responses, strict=True):
            self.slates[row] = places_of(response, self.lists.item[row])
            self.versions[response["model"]["version"]] += 1
            self.steps += response["reasoning"]["steps_used"]

    def figures(self, world: KnownWorld) -> dict[str, Any]:
        """Return the means over the lists of the day, and the versions."""
        return {
            "day": self.number,
            "expected_clicks": float(world.expected_clicks(self.lists, self.slates).mean()),
            "steps": self.steps / len(self.lists),
            "versions": dict(self.versions),
        }


def places_of(response: Mapping[str, Any], items: Array) -> list[int]:
    """Return the candidates of a response's slate as indices of the list of items."""
    index = {f"i{item}": place for place, item in enumerate(items.tolist())}
    return [index[entry["id"]] for entry in response["slate"]]
