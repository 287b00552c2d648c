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

KINDS = ("category", "categories")


@dataclass(frozen=True)
class Bundle:
    """The parts of a bundle that checks and strategies use.

    categories: vocabularies by name; values: for each category, the value of each item, for the
    items whose value the model has a name for; labels: the same for features of several values,
    those of `categories` included. numbers, vectors: names of the features that a
    candidate may have inline; of a vector also its width. of_items: those among them that belong to
    items. statistics: those of items that counters feed. events: names of their types. written: ids
    of items that requests have written into the entity store, where checks must not rely on the
    table.
    """

    ids: list[str]
    categories: dict[str, list[str]]
    values: dict[str, dict[str, str]]
    numbers: list[str] = field(default_factory=list)
    vectors: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    of_items: frozenset[str] = frozenset()
    statistics: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=lambda: ["like", "pass"])
    written: set[str] = field(default_factory=set)

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
        categories, values, labels, slot, first = {}, {}, {}, 0, 1
        for feature, words in zip(features, read_vocabularies(directory, payload), strict=True):
            if words is None:
                continue
            width = feature.get("width", 1)
            if feature["kind"] in KINDS and feature["of"] == "item" and "buckets" not in feature:
                # The first token stands for every value without a name, 0 for a missing one.
                named = zip(ids, (tokens[:, slot : slot + width] - first).tolist(), strict=True)
                labels[feature["name"]] = {
                    item: tuple(dict.fromkeys(words[at - 1] for at in places if at > 0))
                    for item, places in named
                }
            if feature["kind"] == "category" and feature["of"] == "item":
                named_once = labels.get(feature["name"], {}).items()
                categories[feature["name"]] = words
                values[feature["name"]] = {item: names[0] for item, names in named_once if names}
            slot += width if feature["of"] == "item" else 0
            first += 1 + len(words)
        inline = [f for f in features if f["of"] in ("item", "candidate") and f["name"] != "score"]
        numbers = [f["name"] for f in inline if f["kind"] in ("number", "statistic")]
        vectors = {f["name"]: f["width"] for f in inline if f["kind"] == "vector"}
        of_items = frozenset(f["name"] for f in inline if f["of"] == "item")
        statistics = [f["name"] for f in inline if f["kind"] == "statistic"]
        events = list(payload.get("events") or ("like", "pass"))
        return cls(ids, categories, values, numbers, vectors, labels, of_items, statistics, events)

    def group(self, candidate: Mapping[str, Any], name: str) -> Any:
        """Return the candidate's value of an attribute, None when it is a group of its own."""
        groups = candidate.get("groups") or {}
        if groups.get(name) is not None:
            return groups[name]
        inline = candidate.get("features") or {}
        if name in self.categories and inline.get(name) is not None:
            return str(inline[name])
        return self.values.get(name, {}).get(canonical(candidate["id"]))

    def values_of(self, candidate: Mapping[str, Any], name: str) -> tuple[str, ...]:
        """Return the distinct values of an attribute that diversity counts."""
        topics = (candidate.get("topics") or {}).get(name)
        if topics is not None:
            return tuple(dict.fromkeys(topics))
        group = (candidate.get("groups") or {}).get(name)
        if group is not None:
            return (group,)
        inline = (candidate.get("features") or {}).get(name)
        if name in self.labels and inline is not None:
            entries = inline if isinstance(inline, list) else [inline]
            texts = (entry if isinstance(entry, str) else canonical(entry) for entry in entries)
            return tuple(dict.fromkeys(texts))
        return self.labels.get(name, {}).get(canonical(candidate["id"]), ())
