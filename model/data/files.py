"""Find the files of a log or table by path, glob or directory, and number their rows through."""

from __future__ import annotations

import bisect
import glob
import itertools
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from model.data.dialect import Dialect
from model.data.errors import DataError
from model.data.mending import Unreadable

# Format of a file by the end of its name, in lower case.
FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "ndjson",
    ".ndjson": "ndjson",
}
COMPRESSIONS = (".gz", ".zst")
NAMES = "must be named .parquet, .pq, .csv, .tsv, .jsonl or .ndjson; text also with .gz or .zst"
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # written by Hive and Spark for null
LISTED = 3  # names in one message; more are counted


def format_of(path: Path) -> str | None:
    """Return parquet, csv, tsv or ndjson by the name of a file; None for another name."""
    name = path.name.lower()
    plain = name.removesuffix(compression_of(path))
    kind = FORMATS.get(os.path.splitext(plain)[1])
    return None if kind == "parquet" and plain != name else kind


def compression_of(path: Path) -> str:
    """Return .gz or .zst, or an empty text for a file that is not compressed."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""


@dataclass
class Files:
    """The files of one log or table, in the order in which their rows are numbered.

    paths       files, sorted by path with numbers by value, each once
    arguments   paths, globs and directories as the command line names them
    dialect     dialect of the text files
    foreign     files of directories and globs that are no tables, and are not read
    counts      rows of each file, filled when the files are scanned, as are the rest
    columns     columns of each file
    remarks     sentences about files and columns that `prepare` prints
    unreadable  rows that cannot be read, by their number; the table has empty rows in their place
    frames      lazy rows, numbered through; a large Parquet file has several frames
    frame_rows  rows of each frame
    """

    paths: tuple[Path, ...]
    arguments: tuple[str, ...]
    dialect: Dialect
    foreign: tuple[Path, ...] = ()
    counts: list[int] = field(default_factory=list)
    columns: list[tuple[str, ...]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unreadable: dict[int, Unreadable] = field(default_factory=dict)
    frames: list[pl.LazyFrame] = field(default_factory=list)
    frame_rows: list[int] = field(default_factory=list)

    @property
    def decimal_comma(self) -> bool:
        """True if text of numbers may have a decimal comma."""
        return self.dialect.decimal == "," and any(map(_is_delimited, self.paths))

    @property
    def decimal_point(self) -> bool:
        """True if text of numbers may have a decimal point: that of JSON lines always has one."""
        return self.dialect.decimal == "." or not all(map(_is_delimited, self.paths))

    def __str__(self) -> str:
        return shortened(self.arguments)

    def locate(self, row: int) -> tuple[Path, int]:
        """Return the file of a row that is counted from 1 through all files, and its row there."""
        ends = list(itertools.accumulate(self.counts))
        index = min(bisect.bisect_left(ends, row), len(self.paths) - 1)
        return self.paths[index], row - (ends[index - 1] if index and ends else 0)

    def describe(self, role: str) -> Iterator[str]:
        """Yield the lines that `prepare` prints; `role` is log, items or users."""
        files = f"{len(self.paths):,} file{'s' if len(self.paths) > 1 else ''}"
        yield f"{role}: {files}, {sum(self.counts):,} rows"
        empty = [
            str(path) for path, count in zip(self.paths, self.counts, strict=True) if not count
        ]
        for names, text in ((empty, "without rows"), (self.foreign, "not read, no tables")):
            if names:
                yield f"{role}: {len(names):,} {text}: {shortened([str(name) for name in names])}"
        yield from (f"{role}: {remark}" for remark in self.remarks)


def _is_delimited(path: Path) -> bool:
    return format_of(path) in ("csv", "tsv")


def shortened(names: Sequence[str]) -> str:
    """Join names for a message; the first few are named and the others counted."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def find_files(
    arguments: Sequence[str | Path],
    dialect: Dialect | None = None,
    is_table: Callable[[Path], bool] = lambda path: format_of(path) is not None,
    rule: str = NAMES,
) -> Files:
    """Find the tables that paths, globs and directories name.

    Directories are searched to any depth. Files and directories in them whose names begin with a
    dot or an underscore, as those of unfinished jobs do, count as foreign.

    Args:
        is_table: whether a file is one by its name; `rule` says so in messages.

    Raises DataError for an argument that matches nothing, or for a file that is named twice.
    """
    tables: list[Path] = []
    foreign: list[Path] = []
    for argument in arguments:
        before = len(tables), len(foreign)
        for path, below in dict.fromkeys(_expand(Path(argument))):
            readable = is_table(path)
            if below is None and not readable:
                raise DataError(path, rule)
            parts = () if below is None else path.relative_to(below).parts
            hidden = any(part.startswith((".", "_")) for part in parts)
            (tables if readable and not hidden else foreign).append(path)
        if len(tables) == before[0]:
            others = [str(path) for path in foreign[before[1] :]]
            received = f"; it holds {shortened(others)}" if others else ", got no file at all"
            raise DataError(Path(argument), f"must hold a table; {rule}{received}")
    _refuse_repeats(tables)
    tables.sort(key=natural_order)
    names = tuple(map(str, arguments))
    return Files(tuple(tables), names, dialect or Dialect(), tuple(sorted(set(foreign))))


def natural_order(path: Path) -> list[str | int]:
    """Return a key that sorts paths with numbers by value, so that day-2 precedes day-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _refuse_repeats(tables: Sequence[Path]) -> None:
    """Raise DataError if two paths lead to the same file."""
    seen: dict[tuple[int, int], Path] = {}
    for path in tables:
        status = path.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), path)
        if first is not path:
            also = "" if first == path else f"; it is the same file as {first}"
            raise DataError(path, f"must be named once, got it twice{also}")


def _expand(path: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield the files of an argument, each with the directory that was searched for it, if any."""
    if path.is_dir():
        yield from ((file, path) for file in _walk(path))
    elif path.exists():
        yield path, None
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise DataError(path, "must match at least one file, got none")
        literal = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
        base = Path(*literal)
        for match in matches:
            if match.is_file():
                yield match, base
            elif "**" not in path.parts:  # that pattern matches the files below as well
                yield from ((file, base) for file in _walk(match))
    else:
        raise DataError(path, "no such file or directory")


def _walk(directory: Path) -> Iterator[Path]:
    """Yield every file below a directory; follow links to directories, each directory once."""
    visited = {directory.resolve()}
    for place, subdirectories, names in os.walk(directory, followlinks=True):
        yield from (Path(place, name) for name in sorted(names))
        for name in sorted(subdirectories):
            target = Path(place, name).resolve()
            if target in visited:
                subdirectories.remove(name)
            visited.add(target)


def partition_values(path: Path) -> dict[str, str | None]:
    """Return the columns that directories such as `day=2026-01-01` give to a file."""
    pairs = (part.split("=", 1) for part in path.parent.parts if re.match(r"\w+=", part))
    return {
        name: None if value == NULL_PARTITION else urllib.parse.unquote(value)
        for name, value in pairs
    }
