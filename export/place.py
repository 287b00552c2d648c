"""Write a bundle beside its place, and move it there only when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.engine.contract import BundleError, is_bundle_file


def named(out: Path) -> tuple[str, str]:
    """Return the name and version of a bundle at NAME/VERSION, also of a path relative to NAME."""
    place = Path(os.path.abspath(out))
    return place.parent.name, place.name


@contextmanager
def building_beside(out: Path) -> Iterator[Path]:
    """Give a new directory beside `out`, and move it to `out` if the body ends without an error.

    Raises BundleError before the body if `out` holds a file that no bundle has.
    """
    refuse_foreign_files(out)
    building = out.parent / f".{out.name}.building"
    replaced = out.parent / f".{out.name}.replaced"
    if replaced.exists() and not out.exists():  # a run was killed between the two moves
        os.replace(replaced, out)
    for leftover in (building, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        if out.exists():
            os.replace(out, replaced)  # a rename, so that a reader of `out` gets a whole bundle
        os.replace(building, out)
    finally:
        for leftover in (building, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def refuse_foreign_files(out: Path) -> None:
    """Raise BundleError if `out` holds a file that no bundle has."""
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    foreign = [name for name in names if not is_bundle_file(name)]
    if foreign:
        raise BundleError(
            f"{out}: holds {foreign[0]!r}, which is no file of a bundle; "
            "choose a new directory or a bundle to replace"
        )
