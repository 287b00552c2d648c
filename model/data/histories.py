"""Read the history of a list, or build it from the other lists of its user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

ListColumns = dict[str, list[Any]]  # the rows of one displayed slate, by column


ANSWER = ("item_id", "label")


def build_history(
    lists: Sequence[ListColumns],
    index: int,
    limit: int,
    ordered: bool = False,
    names: Sequence[str] = ANSWER,
) -> list[tuple[Any, ...]]:
    """Return up to `limit` answers, (item_id, label), oldest first, for list `index` of a user.

    A valid or test list sees the answers before it. A train list sees other train lists only:
    the latest answers before it, then, as room remains, the earliest after it. Otherwise the first
    lists of a user would be trained with shorter histories than those that serving meets.

    Args:
        lists: all lists of one user in order of time.
        ordered: splits follow each other in time. A list of any split then sees the answers of
            lists with an earlier timestamp only.
        names: columns of an answer.
    """
    if ordered:
        return _earlier_answers(lists, index, limit, names)
    is_train = lists[index]["split"][0] == "train"

    def entries(columns: ListColumns) -> list[tuple[Any, ...]]:
        if is_train and columns["split"][0] != "train":
            return []
        return _answers(columns, names)

    history: list[tuple[Any, ...]] = []
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


def _answers(columns: ListColumns, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(columns[name] for name in names), strict=True))


def _earlier_answers(
    lists: Sequence[ListColumns], index: int, limit: int, names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Return the latest `limit` answers of lists with an earlier timestamp, oldest first."""
    time = lists[index]["timestamp"][0]
    history: list[tuple[Any, ...]] = []
    for earlier in range(index - 1, -1, -1):
        if len(history) >= limit:
            break
        if lists[earlier]["timestamp"][0] < time:
            history = _answers(lists[earlier], names) + history
    return history[-limit:]


@dataclass(frozen=True)
class StoredHistories:
    """Entries of histories.parquet for some requests."""

    entries: pl.DataFrame  # item_id and label, one list per request
    rows: dict[str, int]  # request_id -> row of `entries`

    @classmethod
    def read(cls, histories: pl.LazyFrame, requests: pl.Series) -> StoredHistories:
        """Read the entries of these requests; others stay in the file."""
        of_requests = histories.filter(pl.col("request_id").is_in(requests.implode()))
        grouped = of_requests.group_by("request_id", maintain_order=True).agg("item_id", "label")
        entries = grouped.collect()
        ids = entries["request_id"].to_list()
        return cls(entries.drop("request_id"), {name: row for row, name in enumerate(ids)})

    def of(self, request: str) -> list[tuple[str, float]]:
        """Return the (item_id, label) pairs of a request, oldest first; none if it has none."""
        row = self.rows.get(request)
        if row is None:
            return []
        items, labels = self.entries.row(row)
        return list(zip(items, labels, strict=True))
