"""The initial ranking, kept to what the caller asked for as far as a client can know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rerank_client.responses import Position

SLATE_SIZE = 10  # where none is asked for; a client does not know the bundle's slate length


def initial_ranking(body: Mapping[str, Any]) -> tuple[Position, ...]:
    """The slate of one list's body without a model.

    Blocked ids are left out, pinned ones stand where they are pinned, and `max_per_group` holds for
    the `groups` given with the candidates (not for categories that only the model's item table
    knows). The slate ends early where no candidate is left; without a `slate_size` it has 10
    positions, or as many as the last pinned one needs.
    """
    candidates, constraints = body["candidates"], body.get("constraints", {})
    blocked, caps = constraints.get("blocked", ()), constraints.get("max_per_group", {})
    pinned = {position: item for item, position in constraints.get("pinned", {}).items()}
    size = body.get("slate_size") or max([SLATE_SIZE, *(position + 1 for position in pinned)])
    index: dict[str, int] = {}
    for i, candidate in enumerate(candidates):
        if candidate["id"] not in blocked:
            index.setdefault(candidate["id"], i)
    pinned_index = {p: index[item] for p, item in pinned.items() if item in index}

    def groups_of(i: int) -> list[tuple[str, str]]:
        values = candidates[i].get("groups", {})
        return [(name, values[name]) for name in caps if name in values]

    counts = Counter(group for i in pinned_index.values() for group in groups_of(i))
    free = iter([i for i in index.values() if i not in pinned_index.values()])
    slate: list[Position] = []
    for position in range(size):
        chosen = pinned_index.get(position)
        if chosen is None:
            eligible = (
                i for i in free if all(counts[group] < caps[group[0]] for group in groups_of(i))
            )
            chosen = next(eligible, None)
            if chosen is None:
                break
            counts.update(groups_of(chosen))
        slate.append(Position(candidates[chosen]["id"], position, chosen))
    return tuple(slate)
