"""The lists of a data set user by user, in memory that no user's number of lists exceeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import polars as pl

from model.data import chunks
from model.data.chunks import equal_runs
from model.data.histories import (
    Answer,
    HistoryWindow,
    ListColumns,
    StoredHistories,
    first_answers,
)
from model.data.served_lists import ServedList, ServedLists

# Rows, and values of these rows, that are Python objects at the same time, if a list has no more.
ROWS_PER_BLOCK, CELLS_PER_BLOCK = 1 << 16, 1 << 21
NUMBER = "__number"  # of a user, in order of appearance; no feature has a name like it


@dataclass(frozen=True)
class UserList:
    """One list with the features of its user and its history, oldest first.

    served: the list with all its candidates, None if it is not on record.
    """

    columns: ListColumns
    user: Mapping[str, Any]
    history: Sequence[Answer]
    served: ServedList | None = None


@dataclass(frozen=True)
class _Frame:
    """A frame of rows: features and first answers of its users, by user_id; lists on record."""

    users: Mapping[str, Mapping[str, Any]]
    stored: StoredHistories | None
    first: Mapping[str, Sequence[Answer]]  # the first answers in train
    served: ServedLists | None = None


class UserLists:
    """Reads impressions by user and then by time, scanning the file once per chunk of users.

    Sorting the file by user would need memory for the whole log. A chunk is a group of consecutive
    users that have about as many rows together as a log of this width has in a chunk. A user with
    more rows is read in several frames, each with a scan of its own.
    """

    def __init__(
        self,
        rows: pl.LazyFrame,
        users: pl.DataFrame,
        histories: pl.LazyFrame | None,
        candidates: pl.LazyFrame | None = None,
    ) -> None:
        """Read from the files of a data set.

        Args:
            candidates: of the lists that were served; histories are then theirs, and those of
                other lists are made of their user's lists.
        """
        self._rows, self._users = rows, users
        self._histories = histories if candidates is None else None
        self._candidates, self._served_histories = candidates, histories

    @cached_property
    def _height(self) -> int:
        """Number of rows of a chunk, whose lists may have many more candidates."""
        height = chunks.rows_per_chunk(self._rows)
        if self._candidates is None:
            return height
        rows, candidates = (
            frame.select(pl.len()).collect().item() for frame in (self._rows, self._candidates)
        )
        return max(1, height * rows // max(candidates, rows, 1))

    @cached_property
    def table(self) -> pl.DataFrame:
        """Return user_id, chunk, split, lists, longest and rows, one row per user and split.

        Users stand in order of first appearance.
        """
        totals = pl.col("lists").sum(), pl.col("longest").max(), pl.col("rows").sum()
        merged: list[pl.DataFrame] = []
        for chunk in chunks.read_chunks(self._rows.select("request_id", "user_id", "split")):
            requests = chunk.group_by("request_id", maintain_order=True).agg(
                pl.col("user_id", "split").first(), rows=pl.len()
            )
            requests = requests.with_columns(lists=pl.lit(1), longest=pl.col("rows"))
            joined = pl.concat([*merged, requests.drop("request_id")], how="diagonal")
            merged = [joined.group_by("user_id", "split", maintain_order=True).agg(totals)]
        users = merged[0].group_by("user_id", maintain_order=True).agg(pl.col("rows").sum())
        users = users.select("user_id", chunk=(pl.col("rows").cum_sum() - 1) // self._height)
        return users.join(merged[0], on="user_id", how="left", maintain_order="left")

    def frames(self, splits: Sequence[str], *names: str) -> Iterator[pl.DataFrame]:
        """Yield rows of users with these splits by user and then by time, a list in one frame.

        `names` are the columns to read, request_id, user_id and timestamp among them; by default
        all.
        """
        with_splits = self.table.filter(pl.col("split").is_in(splits))
        rows = self._rows.select(names) if names else self._rows
        for chunk in with_splits["chunk"].unique(maintain_order=True):
            yield from self._frames_of_chunk(rows, self.table.filter(pl.col("chunk") == chunk))

    def _frames_of_chunk(self, rows: pl.LazyFrame, table: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield the rows of one chunk of users, which has at most one user of many rows."""
        totals = table.group_by("user_id", maintain_order=True).agg(pl.col("rows").sum())
        users = totals.with_row_index(NUMBER)
        many = users.filter(pl.col("rows") > self._height)
        few = users.filter(pl.col("rows") <= self._height).select(NUMBER, "user_id")
        place = many[NUMBER].item() if len(many) else len(users)
        for part in (few.filter(pl.col(NUMBER) < place), None, few.filter(pl.col(NUMBER) > place)):
            if part is None:
                for user in many["user_id"]:
                    yield from _frames_of_user(rows.filter(pl.col("user_id") == user))
            elif len(part):
                of_part = rows.filter(pl.col("user_id").is_in(part["user_id"].implode()))
                frame = of_part.collect(engine="streaming")
                frame = frame.join(part, on="user_id", how="left", maintain_order="left")
                yield frame.sort(NUMBER, "timestamp", maintain_order=True).drop(NUMBER)

    def lists(
        self, splits: Sequence[str], limit: int, ordered: bool, names: Sequence[str]
    ) -> Iterator[UserList]:
        """Yield the lists of these splits, each with up to `limit` answers of its history.

        Args:
            ordered: splits follow each other in time (see HistoryWindow).
            names: columns of an answer.
        """
        size = 0
        if "train" in splits and not ordered and self._histories is None:
            train = self.table.filter(pl.col("split") == "train")
            size = limit + int(train.select(pl.col("longest").max()).item() or 0)
        entries = self._entries(splits, size, names)
        for user_id, lists in groupby(entries, lambda entry: entry[0]["user_id"][0]):
            window = None
            for columns, frame in lists:
                if window is None:
                    window = HistoryWindow(limit, ordered, names, frame.first.get(user_id, ()))
                if columns["split"][0] in splits:
                    request = columns["request_id"][0]
                    served = None if frame.served is None else frame.served.of(request)
                    if served is not None:
                        history: Sequence[Answer] = served.history
                    elif frame.stored is None:
                        history = window.history(columns)
                    else:
                        history = frame.stored.of(request)
                    yield UserList(columns, frame.users.get(user_id, {}), history, served)
                window.add(columns)

    def _entries(
        self, splits: Sequence[str], size: int, names: Sequence[str]
    ) -> Iterator[tuple[ListColumns, _Frame]]:
        """Yield the columns of every list of users with these splits, with its frame.

        Args:
            size: number of first answers in train that a frame has of each user.
        """
        frame = None
        height = min(ROWS_PER_BLOCK, CELLS_PER_BLOCK // chunks.cells_per_row(self._rows))
        for rows in self.frames(splits):
            frame = self._frame(rows, size, names, frame)
            for start, stop in _blocks(equal_runs(rows["request_id"]), height):
                block = rows[start:stop]
                columns = {column.name: column.to_list() for column in block.iter_columns()}
                for first, last in equal_runs(block["request_id"]):
                    yield {name: values[first:last] for name, values in columns.items()}, frame

    def _frame(
        self, rows: pl.DataFrame, size: int, names: Sequence[str], before: _Frame | None
    ) -> _Frame:
        """Return the rest of what users have; `before` is the frame before this one."""
        users = rows["user_id"].unique()
        features = self._users.filter(pl.col("user_id").is_in(users.implode()))
        of_user = {row["user_id"]: row for row in features.iter_rows(named=True)}
        stored, served, requests = None, None, rows["request_id"].unique()
        if self._histories is not None:
            stored = StoredHistories.read(self._histories, requests)
        if self._candidates is not None and self._served_histories is not None:
            served = ServedLists.read(self._candidates, self._served_histories, requests)
        if not size:
            return _Frame(of_user, stored, {}, served)
        if before is not None and users[0] in before.first:  # the frame goes on with its user
            return _Frame(of_user, stored, before.first, served)
        total = self.table.filter(pl.col("user_id").is_in(users.implode()))["rows"].sum()
        whole = rows.lazy()
        if len(rows) < total:
            whole = self._rows.filter(pl.col("user_id") == users[0])
        return _Frame(of_user, stored, first_answers(whole, size, names), served)


def _frames_of_user(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of one user by time, about a chunk at a time."""
    times = rows.select("timestamp").collect(engine="streaming")["timestamp"]
    if times.is_sorted():
        yield from (frame for frame in chunks.read_chunks(rows) if len(frame))
    else:  # `prepare` sorts the lists, but other programs write data sets too
        yield rows.collect(engine="streaming").sort("timestamp", maintain_order=True)


def _blocks(runs: Sequence[tuple[int, int]], height: int) -> Iterator[tuple[int, int]]:
    """Join consecutive runs to blocks of about `height` rows."""
    start = 0
    for _, stop in runs:
        if stop - start >= height:
            yield start, stop
            start = stop
    if runs and start < runs[-1][1]:
        yield start, runs[-1][1]
