"""A pool of processes for jobs that depend on each other in waves."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm


def run_waves(waves: Sequence[tuple[str, Sequence[Callable[[], Any]]]]) -> None:
    """Run the jobs of each named wave, one per core at a time; a wave needs the one before it.

    Ctrl-C terminates the running jobs, and the first failing job raises at once; neither lets a
    waiting job begin.
    """
    widest = max(len(jobs) for _, jobs in waves)
    pool = ProcessPoolExecutor(
        min(widest, os.cpu_count() or 1),
        # Not by fork: polars keeps threads that a forked child lacks.
        multiprocessing.get_context("spawn"),
        # A worker with Python's handler would return KeyboardInterrupt as the result of its job
        # and begin the next one.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_DFL),
    )
    with pool:
        try:
            for name, jobs in waves:
                futures = [pool.submit(job) for job in jobs]
                for future in tqdm(as_completed(futures), name, len(futures), disable=None):
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
