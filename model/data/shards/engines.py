"""Engines that run independent tasks: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from model.data.errors import DataError
from model.data.shards.options import ShardOptions, count_processors
from model.data.workers import begin_worker

THREADS = "POLARS_MAX_THREADS"
Task = tuple[Any, ...]  # the arguments of one call


class WorkerDied(Exception):
    """A worker process ended without a result."""


class Engine(Protocol):
    """Calls a function once for each task, in any order and in any process."""

    def map(self, function: Callable[..., Any], tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task with its result, as tasks finish.

        Raises WorkerDied if a worker ends without a result, or the exception of a task.
        """


@contextmanager
def open_engine(options: ShardOptions) -> Iterator[Engine]:
    """Yield the engine that the options name. Raises DataError for Ray where it is missing."""
    workers = options.count_workers()
    if options.engine == "local" and workers == 1:
        yield SerialEngine()
        return
    if options.engine == "local":
        with _open_pool(workers) as engine:
            yield engine
        return
    try:
        from model.data.shards.ray_engine import open_ray
    except ImportError:
        rule = "needs Ray; install deploy/ray/requirements.txt, or pass --engine local"
        raise DataError(Path("--engine ray"), rule) from None
    with open_ray(options.workers) as engine:
        yield engine


class SerialEngine:
    """Runs tasks in this process, one after another."""

    def map(self, function: Callable[..., Any], tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task with its result, in order."""
        for index, task in enumerate(tasks):
            yield index, function(*task)


class LocalEngine:
    """Runs tasks in a pool of spawned processes, because polars deadlocks after a fork."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def map(self, function: Callable[..., Any], tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task with its result, as tasks finish."""
        try:
            futures: dict[Future[Any], int] = {
                self._pool.submit(function, *task): index for index, task in enumerate(tasks)
            }
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise WorkerDied("a worker process ended without a result") from None


@contextmanager
def _open_pool(workers: int) -> Iterator[LocalEngine]:
    """Yield a pool whose processes share the processors, and end with this process.

    If the block fails, they end at once; tasks that they were at run again.
    """
    before, others = os.environ.get(THREADS), multiprocessing.active_children()
    os.environ[THREADS] = str(max(1, count_processors() // workers))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker)
    try:
        yield LocalEngine(pool)
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
