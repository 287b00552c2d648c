"""The parts of a bundle that fuzzed requests and their checks use."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.bundle_files import read_item_ids, read_item_tokens, read_vocabularies
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
        """Read the schema and the items. Raises OSError, ValueError or KeyError for no bundle."""
        payload = json.loads((directory / "features.json").read_text("utf-8"))
        features, ids = payload["features"], read_item_ids(directory)
        tokens = read_item_tokens(directory)
        categories, values, slot, first = {}, {}, 0, 1
        for feature, words in zip(features, read_vocabularies(directory, payload), strict=True):
            if words is None:
                continue
            if feature["kind"] == "category" and feature["of"] == "item":
                # The first token stands for every value without a name, 0 for a missing one.
                named = zip(ids, (tokens[:, slot] - first).tolist(), strict=True)
                categories[feature["name"]] = words
                values[feature["name"]] = {item: words[at - 1] for item, at in named if at > 0}
            slot += feature.get("width", 1) if feature["of"] == "item" else 0
            first += 1 + len(words)
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
