"""The history of a user that one of the user's lists may know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ListColumns = dict[str, list[Any]]  # of one shown list


def build_history(lists: Sequence[ListColumns], index: int, limit: int) -> list[tuple[str, float]]:
    """What list `index` of a user's lists in time may know, `limit` entries at most."""
    is_train = lists[index]["split"][0] == "train"

    def entries(columns: ListColumns) -> list[tuple[str, float]]:
        if is_train and columns["split"][0] != "train":
            return []
        return list(zip(columns["item_id"], columns["label"], strict=True))

    history: list[tuple[str, float]] = []
    for earlier in range(index - 1, -1, -1):
        if len(history) >= limit:
            break
        history = entries(lists[earlier]) + history
    history = history[-limit:]
    for later in range(index + 1, len(lists) if is_train else 0):
        if len(history) >= limit:
            break
        history += entries(lists[later])
    return history[:limit]
