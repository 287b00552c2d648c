"""Move files into place so that they outlive a power loss."""

from __future__ import annotations

import os
from pathlib import Path

from service.journal.segments import sync_directory


def move(file: Path, target: Path) -> None:
    """Replace a target atomically by a finished file; both are durable on return. Raises OSError.

    Without the first sync a name may outlive the bytes, without the second one the other way round.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    file.replace(target)
    sync_directory(target.parent)


def remove(file: Path) -> None:
    """Delete a file if it exists, durably. Raises OSError."""
    if file.exists():
        file.unlink()
        sync_directory(file.parent)
