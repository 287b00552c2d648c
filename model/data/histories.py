"""The history of a user that one of the user's lists may know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Columns = dict[str, list[Any]]  # of one shown list


def history_of(lists: Sequence[Columns], index: int, limit: int) -> list[tuple[str, float]]:
    """What list `index` of a user's lists in time may know, `limit` entries at most."""
    train = lists[index]["split"][0] == "train"

    def answers(columns: Columns) -> list[tuple[str, float]]:
        if train and columns["split"][0] != "train":
            return []
        return list(zip(columns["item_id"], columns["label"], strict=True))

    history: list[tuple[str, float]] = []
    for earlier in range(index - 1, -1, -1):
        if len(history) >= limit:
            break
        history = answers(lists[earlier]) + history
    history = history[-limit:]
    for later in range(index + 1, len(lists) if train else 0):
        if len(history) >= limit:
            break
        history += answers(lists[later])
    return history[:limit]
