"""Child processes that end with the load test, even when it is killed by SIGKILL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")


def bound_to_parent(command: Sequence[str], death_signal: int = signal.SIGTERM) -> list[str]:
    """Return the command line that gets `death_signal` when this process dies (on Linux).

    The process that it starts becomes the command, so its id is the command's. The signal comes
    when the thread that started it ends: start it from the main thread.
    """
    prefix = [sys.executable, "-ES", str(CHILD), str(int(death_signal)), str(os.getpid())]
    return [*prefix, *command]


def stop(process: subprocess.Popen[bytes], number: int, patience_s: float) -> None:
    """Send a signal and wait for the end; kill the process after `patience_s` seconds."""
    process.send_signal(number)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(
    command: Sequence[str],
    stop_signal: int,
    patience_s: float,
    *,
    new_session: bool = False,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command in the foreground and return its exit status, 128 + N after signal N.

    Raises KeyboardInterrupt after an interrupt, once the command has ended: it gets `stop_signal`
    and `patience_s` seconds. new_session: keep signals of the terminal away from it.
    """
    process = subprocess.Popen(
        bound_to_parent(command, stop_signal), start_new_session=new_session, env=environment
    )
    try:
        status = process.wait()
    except KeyboardInterrupt:
        stop(process, stop_signal, patience_s)
        raise
    return status if status >= 0 else 128 - status


def end_with_parent() -> None:
    """Exit this multiprocessing child as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
