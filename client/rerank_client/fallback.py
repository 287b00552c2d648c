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
    at = {p: index[item] for p, item in pinned.items() if item in index}

    def groups(i: int) -> list[tuple[str, str]]:
        values = candidates[i].get("groups", {})
        return [(name, values[name]) for name in caps if name in values]

    held = Counter(group for i in at.values() for group in groups(i))
    free = iter([i for i in index.values() if i not in at.values()])
    slate: list[Position] = []
    for position in range(size):
        chosen = at.get(position)
        if chosen is None:
            room = (i for i in free if all(held[group] < caps[group[0]] for group in groups(i)))
            chosen = next(room, None)
            if chosen is None:
                break
            held.update(groups(chosen))
        slate.append(Position(candidates[chosen]["id"], position, chosen))
    return tuple(slate)
