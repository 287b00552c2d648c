"""A pool of processes for jobs that depend on each other in waves."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm

from model.data.workers import begin_worker


def run_waves(waves: Sequence[tuple[str, Sequence[Callable[[], Any]]]]) -> None:
    """Run the jobs of each named wave, one per core at a time; a wave needs the one before it.

    Ctrl-C terminates the running jobs, and the first failing job raises at once; neither lets a
    waiting job begin. If this process is killed, its workers end too.
    """
    widest = max(len(jobs) for _, jobs in waves)
    pool = ProcessPoolExecutor(
        min(widest, os.cpu_count() or 1),
        # Not by fork: polars keeps threads that a forked child lacks.
        multiprocessing.get_context("spawn"),
        initializer=begin_worker,
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
