"""Read the lists of a data set that have all their candidates and a history, as they were served.

`prepare --served` takes them from the join of a journal. Features that compare an item with the
rest of its list are then those of the whole list, and not of the displayed items alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ormsgpack
import polars as pl

from model.data.chunks import equal_runs
from model.data.errors import DataError
from model.data.histories import ListColumns
from model.data.layout import CANDIDATES
from model.data.moment import Moment
from model.data.requests import RequestBuilder
from service.engine.features.candidates import CandidateList
from service.engine.features.schema import Schema

# Columns of CANDIDATES beside the features: the place in the initial ranking, and if features of
# the user that the schema requires may be absent.
RANK, PARTIAL = "__rank", "__partial"


@dataclass(frozen=True)
class ServedList:
    """One list as it was served: its candidates in initial order, and its history, oldest first.

    rates: the value of `history.rate` for each entry; features: MessagePack maps. None where the
    list has none.
    """

    rows: ListColumns
    items: Sequence[str]
    labels: Sequence[float]
    rates: Sequence[float | None]
    features: Sequence[bytes | None]

    @property
    def history(self) -> list[tuple[str, float]]:
        """Return (item_id, label) pairs."""
        return list(zip(self.items, self.labels, strict=True))


@dataclass(frozen=True)
class ServedLists:
    """The served lists of some requests: rows, and where each request has its own."""

    rows: pl.DataFrame
    runs: Mapping[str, tuple[int, int]]
    entries: pl.DataFrame
    place: Mapping[str, int]

    @classmethod
    def read(
        cls, candidates: pl.LazyFrame, histories: pl.LazyFrame, requests: pl.Series
    ) -> ServedLists:
        """Read the lists of these requests; others stay in the files."""
        is_read = pl.col("request_id").is_in(requests.implode())
        rows = candidates.filter(is_read).collect(engine="streaming").sort("request_id", RANK)
        ids = rows["request_id"]
        runs = {ids[start]: (start, stop) for start, stop in equal_runs(ids)}
        grouped = histories.filter(is_read).group_by("request_id", maintain_order=True)
        entries = grouped.agg("item_id", "label", "rate", "features").collect()
        place = {request: row for row, request in enumerate(entries["request_id"].to_list())}
        return cls(rows, runs, entries.drop("request_id"), place)

    def of(self, request: str) -> ServedList | None:
        """Return the list of a request, None if it was not served."""
        if request not in self.runs:
            return None
        start, stop = self.runs[request]
        row = self.place.get(request)
        history = ((), (), (), ()) if row is None else self.entries.row(row)
        return ServedList(self.rows[start:stop].to_dict(as_series=False), *history)


class ServedRequests:
    """Builds requests of whole lists.

    Args:
        columns: of CANDIDATES.
        moment, fresh: as of RequestBuilder.
    """

    def __init__(
        self, schema: Schema, columns: Sequence[str], moment: Moment | None, fresh: bool
    ) -> None:
        self._builder = RequestBuilder(schema, columns, moment, fresh)
        self._carries_items = fresh or moment is None
        self._rate, self._limit = schema.history.rate, schema.history.limit
        self._statistics = [f.name for f in schema.features if f.kind == "statistic"]
        self._users = [f.name for f in schema.features if f.of == "user" and f.name != "user_id"]

    def build(self, served: ServedList, columns: ListColumns) -> tuple[CandidateList, list[int]]:
        """Return the request of a list, and the place in it of each displayed item.

        A statistic that is not on record is that of the displayed item's row, which `prepare`
        computed.

        Args:
            columns: the displayed rows of the list.

        Raises DataError for a displayed item that was no candidate.
        """
        split, rows = columns["split"][0], dict(served.rows)
        rows |= {"split": [split], "user_id": columns["user_id"]}
        place_of = {item: place for place, item in enumerate(rows["item_id"])}
        try:
            places = [place_of[item] for item in columns["item_id"]]
        except KeyError as error:
            rule = f"must have the items of request {columns['request_id'][0]!r}, but lacks {error}"
            raise DataError(Path(CANDIDATES), rule) from None
        for name in self._statistics:
            rows[name] = list(rows[name])
            for place, value in zip(places, columns.get(name, ()), strict=False):
                rows[name][place] = value if rows[name][place] is None else rows[name][place]
        user = {name: rows[name][0] for name in self._users}
        request = self._builder.build(rows, user, served.history)
        request = dataclasses.replace(request, user_is_partial=rows[PARTIAL][0])
        if self._carries_items or split == "train":
            request = self._with_features(request, served)
        if split == "train" and self._rate is not None and None not in served.rates:
            rates = [rate for rate in served.rates if rate is not None]
            request = dataclasses.replace(request, history_rates=rates[-self._limit :])
        return request, places

    def _with_features(self, request: CandidateList, served: ServedList) -> CandidateList:
        packed = served.features[-self._limit :]
        records: list[Mapping[str, Any]]
        records = [{} if each is None else ormsgpack.unpackb(each) for each in packed]
        return dataclasses.replace(request, history_features=records if any(records) else ())
