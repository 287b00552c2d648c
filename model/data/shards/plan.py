"""The decisions about a whole log that every task on one of its pieces needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.data.entities import ORDER, TRAIN
from model.data.entity_tables import TIME
from model.data.moment import Moment
from model.data.rates import Clock
from model.data.shards.parts import DealtLog
from model.data.shards.requests import PIECE, REQUESTS
from service.engine.features.schema import Feature

FOLD = "__fold"  # of the list of a row, null if it is not train


@dataclass(frozen=True)
class Piece:
    """A run of lists of one shard; `number` counts the pieces of all shards."""

    shard: int
    index: int
    number: int

    @property
    def name(self) -> str:
        """Return the name of the piece, by which files of a data set are sorted."""
        return f"{self.shard:05d}-{self.index:03d}"


@dataclass(frozen=True)
class Plan:
    """The division of a dealt log and the moment of its tables.

    lists          directories of the divided lists, by shard
    folds          directories of the folds of train lists, by shard; empty for a log with a moment
    cutoff         time of the latest train list in ms, None for a log without times
    first_train    time of the first train list
    last           time of the last list
    item_features  features of items that the log alone gives
    lacking        those of them that are null in some rows and are filled from other rows
    inline         features of the rows of the data set, in the order of the schema
    pieces         their number
    partitions     number of partitions of the items
    """

    log: DealtLog
    moment: Moment
    lists: Sequence[Path]
    folds: Sequence[Path]
    cutoff: int | None
    first_train: int
    last: int
    item_features: Sequence[str]
    lacking: Sequence[str]
    inline: Sequence[str]
    pieces: int
    partitions: int

    @property
    def statistics(self) -> list[Feature]:
        """Return the statistics of the schema, all of which are counted here."""
        return [f for f in self.log.schema.features if f.kind == "statistic"]

    def clocks(self) -> dict[str, Clock]:
        """Return the clock of each statistic; none for a log without a moment."""
        as_of = self.moment.as_of
        if as_of is None:
            return {}
        return {f.name: Clock.of(f, self.first_train, as_of) for f in self.statistics}

    def widths(self) -> list[int]:
        """Return the widths of time buckets in ms, each once."""
        return sorted({clock.bucket for clock in self.clocks().values()})

    def rows(self, piece: Piece) -> pl.LazyFrame:
        """Return the rows of a piece with ORDER, TIME, TRAIN, FOLD, split and timestamp."""
        lists = pl.read_parquet(self.lists[piece.shard] / REQUESTS).with_row_index(ORDER)
        if self.folds:
            folds = pl.read_parquet(self.folds[piece.shard] / REQUESTS)
            lists = lists.with_columns(folds["fold"].alias(FOLD))
        else:
            lists = lists.with_columns(pl.lit(None, pl.Int32).alias(FOLD))
        lists = lists.filter(pl.col(PIECE) == piece.index).select(
            "request_id",
            ORDER,
            "timestamp",
            "split",
            FOLD,
            pl.col("timestamp").alias(TIME),
            (pl.col("split") == "train").alias(TRAIN),
        )
        rows = self.log.shard(piece.shard).drop("timestamp", "split", strict=False)
        return rows.join(lists.lazy(), on="request_id")
