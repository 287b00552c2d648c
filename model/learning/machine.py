"""Where training runs: the device, the precision, and the processes that torchrun started.

Processes share every batch. Losses divide by denominators summed over all of them and gradients
are added up, so that a step is the step of one process on the whole batch, whatever the weights
of its parts. Without torchrun all of this is the identity.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from tqdm import tqdm

CPU = torch.device("cpu")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class MachineError(ValueError):
    """A device or precision that this machine does not have."""


@dataclass(frozen=True)
class Machine:
    """Device and precision of training. Weights and optimizer are float32 in any case."""

    device: torch.device = CPU
    precision: torch.dtype = torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """Around what is differentiated; validation is float32, as the service is."""
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)


@contextmanager
def machine(device: str = "auto", precision: str | None = None) -> Iterator[Machine]:
    """The machine asked for, joined with the other processes if torchrun started this one.

    device auto, cpu or cuda; precision float32 or bfloat16, by default bfloat16 on CUDA only.
    Raises MachineError where there is no such device.
    """
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise MachineError("--device cuda: torch finds no CUDA device here")
    place = CPU
    if cuda:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    found = Machine(place, PRECISIONS[precision or ("bfloat16" if cuda else "float32")])
    if "RANK" not in os.environ:
        yield found
        return
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield found
        # gloo aborts a process that takes its group down while another still talks to it.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def processes() -> int:
    """How many share the training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 alone saves and speaks."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """This process's part of rows; the parts follow each other by rank."""
    return np.array_split(rows, processes())[rank()]


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over the processes; no gradient flows through it."""
    if distributed.is_initialized():
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def add_gradients(module: nn.Module) -> None:
    """Give each parameter the sum of its gradients; one that has none anywhere keeps none."""
    if not distributed.is_initialized():
        return
    parameters = list(module.parameters())
    flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    # A process may have had no row that reasoned, and with it no gradient of the reasoning token.
    present = parameters[0].new_tensor([p.grad is not None for p in parameters])
    summed = total(torch.cat([present, *(gradient.flatten() for gradient in flat)]))
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, had, gradient in zip(
        parameters,
        summed[: len(parameters)].tolist(),
        summed[len(parameters) :].split(sizes),
        strict=True,
    ):
        parameter.grad = gradient.view_as(parameter) if had else None


def gather(part: Tensor) -> Tensor:
    """Parts [r, ...] of all processes as one tensor [R, ...] on the CPU, in the order of ranks."""
    parts: list[Tensor] = [part.cpu()] * processes()
    if distributed.is_initialized():
        distributed.all_gather_object(parts, part.cpu())
    return torch.cat(parts)


def agree(value: Any) -> Any:
    """What process 0 has: a rounding must not make processes decide differently."""
    held = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(held)
    return held[0]


def in_processes(waves: Sequence[tuple[str, Sequence[Callable[[], None]]]]) -> None:
    """Do the jobs of each named wave, one on each core at a time; a wave needs the one before.

    Ctrl-C ends the jobs under way, and the first that fails raises at once; neither lets those
    that wait begin.
    """
    most = max(len(jobs) for _, jobs in waves)
    pool = ProcessPoolExecutor(
        min(most, os.cpu_count() or 1),
        # Not by fork: polars keeps threads that a forked child lacks.
        multiprocessing.get_context("spawn"),
        # A worker would take KeyboardInterrupt for the outcome of its job, and begin the next.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_DFL),
    )
    with pool:
        try:
            for name, jobs in waves:
                futures = [pool.submit(job) for job in jobs]
                for future in tqdm(as_completed(futures), name, len(futures)):
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
