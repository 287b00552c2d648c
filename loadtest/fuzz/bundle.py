"""The parts of a bundle that fuzzed requests and their checks use."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.fuzz.ids import canonical


@dataclass(frozen=True)
class Bundle:
    """The parts of a bundle that checks and strategies use.

    categories: vocabularies by name; values: for each category, the value of each item, for the
    items whose value the model has a name for. numbers, vectors: names of the features that a
    candidate may have inline; of a vector also its width.
    """

    ids: list[str]
    categories: dict[str, list[str]]
    values: dict[str, dict[str, str]]
    numbers: list[str] = field(default_factory=list)
    vectors: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def items(self) -> frozenset[str]:
        """The ids as a set."""
        return frozenset(self.ids)

    @classmethod
    def read(cls, directory: Path) -> Bundle:
        """Read features.json and items.npz. Raises OSError or KeyError for no bundle."""
        features = json.loads((directory / "features.json").read_text("utf-8"))["features"]
        with np.load(directory / "items.npz", allow_pickle=False) as table:
            ids, tokens = table["ids"].tolist(), table["tokens"]
        categories, values, slot, first = {}, {}, 0, 1
        for feature in features:
            if feature["kind"] not in ("identifier", "category", "categories"):
                continue
            if feature["kind"] == "category" and feature["of"] == "item":
                # The first token stands for every value without a name, 0 for a missing one.
                named = zip(ids, (tokens[:, slot] - first).tolist(), strict=True)
                words = categories[feature["name"]] = feature["vocabulary"]
                values[feature["name"]] = {item: words[at - 1] for item, at in named if at > 0}
            slot += feature.get("width", 1)
            first += 1 + len(feature.get("vocabulary", ids))
        inline = [f for f in features if f["of"] in ("item", "candidate") and f["name"] != "score"]
        numbers = [f["name"] for f in inline if f["kind"] in ("number", "statistic")]
        vectors = {f["name"]: f["width"] for f in inline if f["kind"] == "vector"}
        return cls(ids, categories, values, numbers, vectors)

    def group(self, candidate: Mapping[str, Any], name: str) -> Any:
        """Return the candidate's value of an attribute, None when it is a group of its own."""
        groups = candidate.get("groups") or {}
        if groups.get(name) is not None:
            return groups[name]
        inline = candidate.get("features") or {}
        if name in self.categories and inline.get(name) is not None:
            return str(inline[name])
        return self.values.get(name, {}).get(canonical(candidate["id"]))
