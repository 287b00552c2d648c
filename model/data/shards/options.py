"""Options of sharded preparation, and the sizes of its units of work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.data.errors import DataError

ROWS_PER_SHARD = 1_000_000
CELLS_PER_SHARD = 1 << 24  # values of 8 bytes; a wide log has fewer rows in a shard
SHARDS_IN_ONE_FILE = 4  # a log of no more rows than such shards have is prepared as one file
SHARDS = 500  # at most; those of a longer log have more rows, in several pieces
SHARDS_PER_PIECE = 2  # rows of an output file; a shard has several if it is larger
ROWS_PER_PART = 1 << 23  # input rows that one task deals
CELLS_PER_PARTITION = 1 << 24  # values that are merged into one partition of the items

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class ShardOptions:
    """The engine that runs tasks, its worker processes and the number of shards.

    Only `shards` may change the data set. None stands for the processors of this machine, or for
    the number of rows.
    """

    engine: EngineName = "local"
    workers: int | None = None
    shards: int | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "shards"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(Path(f"--{name}"), "must be at least 1", value=value)

    def count_workers(self) -> int:
        """Return the number of worker processes."""
        return self.workers or count_processors()

    def count_shards(self, rows: int, cells: int) -> int | None:
        """Return the number of shards of a log, None for a log that is prepared as one file.

        Args:
            cells: values of 8 bytes in a row.
        """
        if self.shards is not None:
            return self.shards
        shards = -(-rows // rows_per_shard(cells))
        return None if shards <= SHARDS_IN_ONE_FILE else min(shards, SHARDS)


def count_processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS assigns no processors


def rows_per_shard(cells: int) -> int:
    """Return the rows of a shard whose rows have so many values of 8 bytes."""
    return max(1, min(ROWS_PER_SHARD, CELLS_PER_SHARD // cells))


def rows_per_piece(cells: int) -> int:
    """Return the rows of an output file, likewise."""
    return SHARDS_PER_PIECE * rows_per_shard(cells)


def count_partitions(rows: int, item_features: int) -> int:
    """Return the partitions of the items of a log whose rows hold features of items."""
    return -(-rows * (8 + 4 * item_features) // CELLS_PER_PARTITION)
