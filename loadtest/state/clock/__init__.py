"""A wall clock that the load test sets, for a service that replays a log."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

FORM = struct.Struct("<q")
VARIABLE = "LOADTEST_CLOCK"  # names the file in the environment of the service


class Clock:
    """The time of a service, in a file that `sitecustomize` maps in each of its processes."""

    def __init__(self, path: Path, moment: int) -> None:
        """moment: time in ms since 1970 UTC at which the clock stands."""
        path.write_bytes(bytes(FORM.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), FORM.size)
        self._path = path
        self.set(moment)

    def set(self, moment: int) -> None:
        """Set the time in ms since 1970 UTC."""
        self._memory[:] = FORM.pack(moment * 1_000_000)

    @property
    def wrapper(self) -> list[str]:
        """The words before a command whose Python processes read this clock."""
        directory = Path(__file__).parent.resolve()
        return ["env", f"PYTHONPATH={directory}", f"{VARIABLE}={self._path.resolve()}"]
