"""Replace a data set only by a complete one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from model.data.errors import DataError
from model.data.layout import FILES

SCRATCH = "log.parquet"


@contextmanager
def replaced(directories: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a `.tmp` sibling for each; they take the directories' places only if all went well.

    Else what was there is there again; where the process was killed, with the next call. Raises
    DataError for a directory that holds anything but a data set.
    """
    places = [path.resolve() for path in directories]  # a link stays, what it names is replaced
    siblings = [path.with_name(f"{path.name}.tmp") for path in places]
    olds = [path.with_name(f"{path.name}.old") for path in siblings]  # X.old may be one's own copy
    for path in (*places, *siblings, *olds):
        _refuse_to_replace(path)
    for place, old in zip(places, olds, strict=True):
        if old.exists() and not place.exists():
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    try:
        for sibling in siblings:
            shutil.rmtree(sibling, ignore_errors=True)
            sibling.mkdir(parents=True)
        yield siblings
        _swap(list(zip(siblings, places, olds, strict=True)))
    finally:
        for sibling in siblings:
            shutil.rmtree(sibling, ignore_errors=True)


def _swap(moves: Sequence[tuple[Path, Path, Path]]) -> None:
    """Move each new data set to its place; the old one is gone only when all of them are there."""
    try:
        for new, place, old in moves:
            if place.exists():
                place.rename(old)
            new.rename(place)
    except BaseException:
        for new, place, old in moves:
            if not new.exists():
                place.rename(new)
            if old.exists():
                old.rename(place)
        raise
    for _, _, old in moves:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_to_replace(path: Path) -> None:
    """Only a data set may be replaced: a mistyped --out must not cost other files."""
    if path.exists() and not path.is_dir():
        raise DataError(path, "a directory for the data set, got a file")
    foreign = (
        sorted(f.name for f in path.iterdir() if f.name not in (*FILES, SCRATCH))
        if path.exists()
        else []
    )
    if foreign:
        raise DataError(
            path, f"a new directory or a data set to replace, got one with {foreign[0]!r}"
        )
