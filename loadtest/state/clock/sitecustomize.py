"""Read the wall clock from a file: Python imports this module first where it is on the path.

Only `time.time` and `time.time_ns` change; waits and deadlines use the monotonic clock.
"""

import mmap
import os
import struct
import time

with open(os.environ["LOADTEST_CLOCK"], "rb") as _file:
    _memory = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
_unpack = struct.Struct("<q").unpack_from


def time_ns() -> int:
    """Return the time of the file in ns since 1970 UTC."""
    moment: int = _unpack(_memory)[0]
    return moment


def seconds() -> float:
    """Return the same in seconds."""
    return time_ns() / 1e9


time.time_ns, time.time = time_ns, seconds
