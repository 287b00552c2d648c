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
def atomic_replacement(directories: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a `.tmp` sibling for each; they take the directories' places only if all went well.

    Else what was there is there again; where the process was killed, with the next call. Raises
    DataError for a directory that holds anything but a data set.
    """
    targets = [path.resolve() for path in directories]  # a link stays, what it names is replaced
    temporaries = [path.with_name(f"{path.name}.tmp") for path in targets]
    backups = [
        path.with_name(f"{path.name}.old") for path in temporaries
    ]  # X.old may be one's own copy
    for path in (*targets, *temporaries, *backups):
        _require_replaceable(path)
    for target, backup in zip(targets, backups, strict=True):
        if backup.exists() and not target.exists():
            backup.rename(target)
        shutil.rmtree(backup, ignore_errors=True)
    try:
        for temporary in temporaries:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        yield temporaries
        _swap(list(zip(temporaries, targets, backups, strict=True)))
    finally:
        for temporary in temporaries:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(moves: Sequence[tuple[Path, Path, Path]]) -> None:
    """Move each new data set to its place; the old one is gone only when all of them are there."""
    try:
        for new, target, backup in moves:
            if target.exists():
                target.rename(backup)
            new.rename(target)
    except BaseException:
        for new, target, backup in moves:
            if not new.exists():
                target.rename(new)
            if backup.exists():
                backup.rename(target)
        raise
    for _, _, backup in moves:
        shutil.rmtree(backup, ignore_errors=True)


def _require_replaceable(path: Path) -> None:
    """Only a data set may be replaced: a mistyped --out must not cost other files."""
    if path.exists() and not path.is_dir():
        raise DataError(path, "a directory for the data set, got a file")
    other_files = (
        sorted(f.name for f in path.iterdir() if f.name not in (*FILES, SCRATCH))
        if path.exists()
        else []
    )
    if other_files:
        raise DataError(
            path, f"a new directory or a data set to replace, got one with {other_files[0]!r}"
        )
