"""Device and precision of training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

CPU = torch.device("cpu")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class DeviceError(ValueError):
    """The requested device does not exist."""


@dataclass(frozen=True)
class Accelerator:
    """Device and precision of training. Weights and optimizer are float32 in any case."""

    device: torch.device = CPU
    precision: torch.dtype = torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of differentiated passes; validation is float32, as the service is."""
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)


@contextmanager
def open_accelerator(device: str = "auto", precision: str | None = None) -> Iterator[Accelerator]:
    """Choose device and precision, and join the process group if torchrun started this process.

    Args:
        device: auto, cpu or cuda.
        precision: float32 or bfloat16; by default bfloat16 on CUDA, else float32.

    Raises DeviceError where torch has no such device.
    """
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise DeviceError("--device cuda: torch has no CUDA device; use --device cpu")
    place = CPU
    if cuda:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    chosen = Accelerator(place, PRECISIONS[precision or ("bfloat16" if cuda else "float32")])
    if "RANK" not in os.environ:
        yield chosen
        return
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield chosen
        # gloo aborts a process that leaves the group while another still communicates with it.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
