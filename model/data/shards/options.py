"""Options of sharded preparation, and the sizes of its units of work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.data.errors import DataError

ROWS_IN_ONE_FILE = 4_000_000  # a log of no more rows is prepared as one file
ROWS_PER_SHARD = 1_000_000
ROWS_PER_PART = 1 << 23  # input rows that one task deals
ROWS_PER_PIECE = 1 << 21  # rows of one output file; a shard has more if one of its users has
ROWS_PER_PARTITION = 1 << 22  # rows that are merged into one partition of the items

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
        return self.workers or len(os.sched_getaffinity(0))

    def count_shards(self, rows: int) -> int | None:
        """Return the number of shards of a log, None for a log that is prepared as one file."""
        if self.shards is not None:
            return self.shards
        return None if rows <= ROWS_IN_ONE_FILE else -(-rows // ROWS_PER_SHARD)
