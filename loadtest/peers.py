"""Pass `python -m loadtest peers` on to `python -m peers`, which may import what a peer runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from loadtest import processes

STOP_S = 90.0  # limit for it to stop the server under test


def run_peers(arguments: Sequence[str]) -> int:
    """Run the command in a process of its own and return its exit status.

    Every signal that stops the load test reaches it as SIGINT, which Python turns into
    KeyboardInterrupt, so that it stops the servers that it started.
    """
    command = [sys.executable, "-m", "peers", *arguments]
    return processes.run(command, signal.SIGINT, STOP_S, new_session=True)
