"""Run tasks on a Ray cluster, or on a Ray that starts on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from model.data.errors import DataError
from model.data.shards.engines import THREADS, Task, WorkerDied

CONNECT_S = 30.0  # seconds until a cluster counts as absent
PROBE = "import ray; ray.init(log_to_driver=False, configure_logging=False); ray.shutdown()"
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

    Raises DataError if RAY_ADDRESS names no running cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    attached = "RAY_ADDRESS" in os.environ
    if attached:
        _require_cluster(os.environ["RAY_ADDRESS"])
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


def _require_cluster(address: str) -> None:
    """Connect to the cluster in a process of its own, which ends if nothing responds.

    Without a cluster ray.init tries for more than a minute and says nothing. Raises DataError.
    """
    if address == "local":  # starts Ray on this machine
        return
    rule = "must name a running Ray cluster; "
    lines: list[str] = []
    try:
        command = [sys.executable, "-c", PROBE]
        subprocess.run(command, check=True, timeout=CONNECT_S, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        rule += f"none responded within {CONNECT_S:g} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        rule += lines[-1] if lines else "it cannot be reached"
    else:
        return
    raise DataError(Path("RAY_ADDRESS"), rule, value=address, report=lines)
