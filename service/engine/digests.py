"""Compute the SHA-256 of each file once, for as long as the file stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

from service.engine.contract import sha256

# Device, inode, size in bytes, times of the last change of content and of inode in ns.
Stamp = tuple[int, int, int, int, int]


class Digests:
    """Returns the SHA-256 of files; pickled, it takes the digests to another process.

    A digest is trusted while the stamp of its file is the same. No write to a file leaves its
    stamp unchanged, except by someone who may set the clock or write to the device.
    """

    def __init__(self) -> None:
        self._digests: dict[Stamp, str] = {}

    def __call__(self, path: Path) -> str:
        """Return the SHA-256 of a file in hexadecimal. Raises OSError."""
        stamp = _stamp_of(path)
        digest = self._digests.get(stamp)
        if digest is None:
            digest = sha256(path)
            if _stamp_of(path) == stamp:  # not written to meanwhile
                self._digests[stamp] = digest
        return digest


def _stamp_of(path: Path) -> Stamp:
    status = os.stat(path)
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times
