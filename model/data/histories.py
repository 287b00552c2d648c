"""Read the history of a list, or collect it from the other lists of its user."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

ListColumns = dict[str, list[Any]]  # the rows of one displayed slate, by column
Answer = tuple[Any, ...]

ANSWER = ("item_id", "label")  # columns of an answer


class HistoryWindow:
    """The answers of one user before the current list, and in train the first ones after it.

    Lists are added in order of time. A list that is not train sees the latest answers before it. A
    train list sees other train lists only: the latest answers before it, then, as room remains, the
    earliest after it. Otherwise the first lists of a user would be trained with shorter histories
    than those that serving meets. Columns besides item and label are None for the answers after it,
    because a rate at that time counts the labels of this list.

    Args:
        limit: most answers of a history.
        ordered: splits follow each other in time. A list of any split then sees the answers of
            lists with an earlier timestamp only.
        names: columns of an answer.
        first: the user's first answers in train, `limit` and a list more, unless `ordered`.
    """

    def __init__(
        self, limit: int, ordered: bool, names: Sequence[str], first: Sequence[Answer] = ()
    ) -> None:
        self._limit, self._ordered, self._names, self._first = limit, ordered, names, first
        self._before: deque[Answer] = deque(maxlen=limit)
        self._train: deque[Answer] = deque(maxlen=limit)
        self._train_count = 0  # answers of all train lists so far
        self._at_time: deque[Answer] = deque(maxlen=limit)  # not earlier than the newest list
        self._time: Any = None

    def history(self, columns: ListColumns) -> list[Answer]:
        """Return the history of a list that is not added yet, oldest first."""
        if self._ordered:
            self._advance(columns)
        elif columns["split"][0] == "train":
            start = self._train_count + len(columns["item_id"])
            room = self._limit - len(self._train)
            later = self._first[start : start + room]
            unrated = [None] * (len(self._names) - len(ANSWER))
            return [*self._train, *((item, label, *unrated) for item, label, *_ in later)]
        return list(self._before)

    def add(self, columns: ListColumns) -> None:
        """Add a list whose answers later lists may see."""
        answers = list(zip(*(columns[name] for name in self._names), strict=True))
        if self._ordered:
            self._advance(columns)
            self._at_time.extend(answers)
            return
        self._before.extend(answers)
        if columns["split"][0] == "train":
            self._train.extend(answers)
            self._train_count += len(answers)

    def _advance(self, columns: ListColumns) -> None:
        """Let answers count as earlier if the time of a list is later than theirs."""
        time = columns["timestamp"][0]
        if time != self._time:
            self._before.extend(self._at_time)
            self._at_time.clear()
            self._time = time


def first_answers(
    rows: pl.LazyFrame, size: int, names: Sequence[str]
) -> dict[str, Sequence[Answer]]:
    """Return the first `size` answers in train of each user, of rows by user and then by time."""
    train = rows.filter(pl.col("split") == "train").group_by("user_id", maintain_order=True)
    answers = train.agg(pl.col(names).head(size)).collect(engine="streaming")
    columns = answers.select(names).iter_rows()
    return {
        user: list(zip(*values, strict=True))
        for user, values in zip(answers["user_id"], columns, strict=True)
    }


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
