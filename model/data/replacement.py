"""Replace directories of data sets atomically."""

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
    """Yield a `.tmp` sibling of each directory, and move all into place if the block succeeds.

    If the block fails, the previous directories stay. If the process is killed between two moves,
    the next call restores the previous directory from its `.tmp.old` copy.

    Raises DataError for a directory that holds anything but a data set.
    """
    targets = [
        path.resolve() for path in directories
    ]  # replace what a link points to, keep the link
    temporaries = [path.with_name(f"{path.name}.tmp") for path in targets]
    # Not NAME.old, which may be a copy that the user made.
    backups = [path.with_name(f"{path.name}.old") for path in temporaries]
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
    """Move all new directories into place, or restore all previous ones if a move fails."""
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
    """Refuse to replace other than a data set, so that a mistyped --out deletes no files."""
    if path.exists() and not path.is_dir():
        raise DataError(path, "must be a directory for the data set, got a file")
    other_files = (
        sorted(f.name for f in path.iterdir() if f.name not in (*FILES, SCRATCH))
        if path.exists()
        else []
    )
    if other_files:
        raise DataError(path, f"must be new or a data set to replace, but holds {other_files[0]!r}")
