"""Collectives over the processes that torchrun started.

Ranks share every batch. Losses divide by denominators summed over all ranks and gradients are
added up, so that a step equals the step of one process on the whole batch, whatever the weights of
its parts. Without torchrun every function here is the identity.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from model.learning.optimizer import sparse_parameters

T = TypeVar("T")


def world_size() -> int:
    """Return the number of training processes (world size)."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process. Only rank 0 writes files and prints."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def shard(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return this rank's part of rows; the parts follow each other by rank."""
    return np.array_split(rows, world_size())[rank()]


def disjoint_shards(count: int) -> range | None:
    """Return the shards of a data set that this rank trains on, every world-size-th one.

    None for one process, or if there are fewer shards than ranks: every rank then has all lists.
    """
    return range(rank(), count, world_size()) if 1 < world_size() <= count else None


def all_reduce(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks; no gradient flows through it."""
    if distributed.is_initialized():
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def all_reduce_gradients(module: nn.Module) -> None:
    """Replace each gradient by its sum over all ranks; a parameter without any keeps None."""
    if not distributed.is_initialized():
        return
    tables = sparse_parameters(module)
    for table in tables:
        table.grad = _sum_of_rows(table)
    parameters = [p for p in module.parameters() if not any(p is table for table in tables)]
    if not parameters:
        return
    flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    # The reasoning token has no gradient on a rank where no row reasoned.
    present = flat[0].new_tensor([p.grad is not None for p in parameters])
    summed = all_reduce(torch.cat([present, *(gradient.flatten() for gradient in flat)]))
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, ranks_with_gradient, gradient in zip(
        parameters,
        summed[: len(parameters)].tolist(),
        summed[len(parameters) :].split(sizes),
        strict=True,
    ):
        parameter.grad = gradient.view_as(parameter) if ranks_with_gradient else None


def _sum_of_rows(table: Tensor) -> Tensor:
    """Return the sum over all ranks of the sparse gradients of a table [V, D], coalesced."""
    gradient = table.grad
    if gradient is None:
        gradient = torch.zeros_like(table, layout=torch.sparse_coo)
    gradient = gradient.coalesce()
    rows, values = gather_rows(gradient.indices()[0]), gather_rows(gradient.values())
    return torch.sparse_coo_tensor(rows[None], values, table.shape).coalesce()


def gather_rows(part: Tensor) -> Tensor:
    """Concatenate parts [r, ...] of any number of rows, in the order of the ranks, to [R, ...]."""
    if not distributed.is_initialized():
        return part
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=part.device)
    sizes[rank()] = len(part)
    counts = all_reduce(sizes).tolist()
    padded = part.new_zeros(max(counts), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([rows[:count] for rows, count in zip(parts, counts, strict=True)])


def all_gather(part: Tensor) -> Tensor:
    """Concatenate the parts [r, ...] of all ranks, in their order, to [R, ...] on the CPU."""
    parts: list[Tensor] = [part.cpu()] * world_size()
    if distributed.is_initialized():
        distributed.all_gather_object(parts, part.cpu())
    return torch.cat(parts)


def merge(part: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return the union of the dictionaries of all ranks."""
    parts = [part] * world_size()
    if distributed.is_initialized():
        distributed.all_gather_object(parts, part)
    return {key: value for entries in parts for key, value in entries.items()}


def broadcast(value: T) -> T:
    """Return the value of rank 0: rounding must not lead ranks to different decisions."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]
