"""Run a function on several ranks of one process group."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

RANKS = 2
LIMIT_S = 240


def run_ranks(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in a process for each rank; all must succeed.

    The function must be importable, and finds the address of its group in the environment, as under
    torchrun.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_join, args=(rank, port, function, arguments))
        for rank in range(RANKS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=LIMIT_S)
        assert worker.exitcode == 0


def _join(rank: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    function(rank, *arguments)
