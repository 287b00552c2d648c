"""A server that is a program of its own, in the foreground of the module that configures it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

STOP_S = 10  # how long it may take over its own way out


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run the program until it ends or SIGTERM asks for it, then end what it left.

    Its status, or 0 where it was asked: some are killed for requests that they wait for in vain.

    environment: of the program, where it is not this process's own.
    """
    # In a session of its own, so that all its processes can be ended by one signal.
    process = subprocess.Popen(command, env=environment, start_new_session=True)

    asked = threading.Event()

    def stop(*_: object) -> None:
        asked.set()
        process.terminate()
        signal.alarm(STOP_S)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda *_: end(process.pid))
    status = process.wait()
    end(process.pid)
    return 0 if asked.is_set() else status


def end(group: int) -> None:
    """Kill what is left of a group of processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
