"""The fallback of a client: the initial ranking under the constraints of the request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rerank_client.checks import id_text
from rerank_client.columns import as_records
from rerank_client.intent import ListIntent
from rerank_client.responses import Position

# Default without a `slate_size`, because a client does not know the slate length of the bundle.
SLATE_SIZE = 10


def initial_ranking(body: Mapping[str, Any]) -> tuple[Position, ...]:
    """Return the slate of one list without a model, from the body of its request.

    The slate leaves out blocked ids and puts pinned ones at their positions. It keeps to
    `max_per_group` for the `groups` in the request, and follows its boosts and its diversity by
    `topics` and `groups`, but not by attributes that only the item table of the model holds. It
    ends early when no candidate is left. Without a `slate_size` it has 10 positions, or as many as
    the last pinned id needs. None means that a field is absent.
    """
    candidates, constraints = as_records(body["candidates"]), body.get("constraints") or {}
    blocked = {id_text(item) for item in constraints.get("blocked") or ()}
    caps = constraints.get("max_per_group") or {}
    pins = constraints.get("pinned") or {}
    pinned = {position: id_text(item) for item, position in pins.items()}
    size = body.get("slate_size") or max([SLATE_SIZE, *(position + 1 for position in pinned)])
    index: dict[str, int] = {}  # by text, because 1, "1" and " 1" are one id
    for i, candidate in enumerate(candidates):
        text = id_text(candidate["id"])
        if text not in blocked:
            index.setdefault(text, i)
    pinned_index = {p: index[item] for p, item in pinned.items() if item in index}

    def groups_of(i: int) -> list[tuple[str, str]]:
        values = candidates[i].get("groups") or {}
        return [(name, values[name]) for name in caps if values.get(name) is not None]

    counts = Counter(group for i in pinned_index.values() for group in groups_of(i))
    free = [i for i in index.values() if i not in pinned_index.values()]
    intent = ListIntent(body, candidates)
    slate: list[Position] = []
    for position in range(size):
        chosen = pinned_index.get(position)
        if chosen is None:
            # Counts only grow, so a candidate over its limit stays out.
            free = [
                i for i in free if all(counts[group] < caps[group[0]] for group in groups_of(i))
            ]
            if not free:
                break
            chosen = free[0] if intent.is_empty else max(free, key=intent.score)
            free.remove(chosen)
            counts.update(groups_of(chosen))
        intent.place(chosen)
        slate.append(Position(candidates[chosen]["id"], position, chosen))
    return tuple(slate)
