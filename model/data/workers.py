"""The first task of a worker process: to end with Ctrl-C and with its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess


def begin_worker() -> None:
    """Let this worker end at once on Ctrl-C, and as soon as its parent is gone.

    A worker with Python's handler of SIGINT would return KeyboardInterrupt as the result of its
    job and begin the next one. A worker whose parent was killed would finish its job, and then wait
    for another one for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
