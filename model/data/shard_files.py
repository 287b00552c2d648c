"""The list of the shards of a data set, shards.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from model.data.errors import DataError
from model.data.layout import IMPRESSIONS, SHARDS
from model.data.moment import AGAIN


@dataclass(frozen=True)
class ShardFile:
    """One file of impressions: its path below the data set, rows, bytes and SHA-256."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitSize:
    """Lists and rows of one split of a shard, and the rows of its longest list."""

    lists: int
    rows: int
    longest: int


@dataclass(frozen=True)
class Shard:
    """All rows of some users, in files by time."""

    files: Sequence[ShardFile]
    splits: Mapping[str, SplitSize]

    def scan(self, directory: Path) -> pl.LazyFrame:
        """Return the rows, by list in time and then position."""
        return pl.scan_parquet([directory / file.path for file in self.files])


def read_shards(directory: Path) -> list[Shard]:
    """Return the shards of a data set, none for one whose impressions are one file.

    Raises DataError for a list that cannot be read.
    """
    path = directory / SHARDS
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["shards"]
        return [
            Shard(
                tuple(ShardFile(**file) for file in entry["files"]),
                {name: SplitSize(**size) for name, size in entry["splits"].items()},
            )
            for entry in entries
        ]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error}); {AGAIN}") from None


def check_files(directory: Path, shards: Sequence[Shard]) -> None:
    """Raise DataError for a file of another size than in the list, as an older copy has."""
    for file in (file for shard in shards for file in shard.files):
        size = (directory / file.path).stat().st_size
        if size != file.bytes:
            rule = f"must have {file.bytes} bytes, as {SHARDS} says; copy the data set again"
            raise DataError(directory / file.path, rule, value=size)


def impression_files(directory: Path) -> list[Path]:
    """Return the files of all impressions of a data set."""
    files = [directory / file.path for shard in read_shards(directory) for file in shard.files]
    return files or [directory / IMPRESSIONS]


def write_shards(directory: Path, shards: Sequence[Shard]) -> None:
    """Write the list of the shards of a data set."""
    text = json.dumps({"shards": [asdict(shard) for shard in shards]}, indent=1) + "\n"
    (directory / SHARDS).write_text(text, encoding="utf-8")
