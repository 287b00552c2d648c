"""Run a server that is a program of its own, in the foreground of the module that configures it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

STOP_S = 10  # limit for its own shutdown


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a program until it ends or this process gets SIGTERM, then kill its process group.

    Return the program's exit status, or 0 after SIGTERM: some programs are killed on the way,
    because they wait for requests that never end.

    Args:
        environment: Variables of the program, by default this process's own.
    """
    # A session of its own lets one signal end all its processes.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        process.terminate()
        signal.alarm(STOP_S)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda *_: kill_group(process.pid))
    status = process.wait()
    kill_group(process.pid)
    return 0 if stopped.is_set() else status


def kill_group(group: int) -> None:
    """Kill the processes that are left of a group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
