"""Run tasks on a Ray cluster, or on a Ray that starts on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from model.data.shards.engines import THREADS, Task, WorkerDied

PER_PROCESSOR = 2  # tasks that are submitted at once; the others wait here


class RayEngine:
    """Runs every task as a Ray task of one processor."""

    def __init__(self) -> None:
        self._limit = PER_PROCESSOR * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(self, function: Callable[..., Any], tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task with its result, as tasks finish."""
        remote = ray.remote(num_cpus=1, max_retries=0)(function)
        waiting = iter(enumerate(tasks))
        running: dict[Any, int] = {}
        try:
            while True:
                for index, task in waiting:
                    running[remote.remote(*task)] = index
                    if len(running) >= self._limit:
                        break
                if not running:
                    return
                (done,), _ = ray.wait([*running], num_returns=1)
                yield running.pop(done), ray.get(done)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError,
                ray.exceptions.NodeDiedError) as error:  # fmt: skip
            raise WorkerDied(f"a Ray worker ended without a result ({error})") from None
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


@contextmanager
def open_ray(workers: int | None) -> Iterator[RayEngine]:
    """Yield an engine on the cluster of RAY_ADDRESS, or on processes of this machine.

    Args:
        workers: processors of the Ray that starts here; a cluster has its own.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    attached = "RAY_ADDRESS" in os.environ
    ray.init(
        num_cpus=None if attached else workers,
        include_dashboard=None if attached else False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {THREADS: "1"}},
    )
    try:
        yield RayEngine()
    finally:
        ray.shutdown()
