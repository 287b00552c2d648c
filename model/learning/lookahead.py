"""Values of all slates of small lists, and the loss of a choice under its best continuation.

A greedy gain says what a candidate adds now. Where the best choice depends on the candidates that
are left, its target must look ahead: the best slate that begins with the prefix and the candidate.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import torch
from torch import Tensor

from model.learning.objectives import ListObjective
from model.network.config import ConfigError

MOST_SLATES = 20_000  # of one list
SLATES_AT_ONCE = 128  # more do not fit a cache of the processor and take twice as long


@cache
def orders_of(size: int, length: int) -> Tensor:
    """Return all slates of a list, int64 [P, min(length, size)], in lexicographic order.

    Raises ConfigError for more than MOST_SLATES.
    """
    length = min(length, size)
    if math.perm(size, length) > MOST_SLATES:
        raise ConfigError(
            f"search.teacher: exhaustive needs lists of at most {MOST_SLATES} slates, got "
            f"{math.perm(size, length)} slates of {length} of {size} candidates"
        )
    return torch.tensor([*itertools.permutations(range(size), length)])


def slate_values(of_lists: ListObjective) -> Tensor:
    """Return the value of every slate of B lists, float [B, P] in the order of `orders_of`.

    It is -inf for a slate with padding before a list's end.
    """
    size, device = of_lists.mask.shape[1], of_lists.mask.device
    orders = orders_of(size, of_lists.length).to(device)
    length = orders.shape[1]
    row = torch.arange(len(of_lists.mask), device=device).view(-1, 1, 1)
    filled = of_lists.filled[:, :length].unsqueeze(1)
    parts = []
    for start in range(0, len(orders), SLATES_AT_ONCE):
        block = orders[start : start + SLATES_AT_ONCE].expand(len(row), -1, -1)
        real = of_lists.mask[row, block]
        block = torch.where(real, block, -1)
        padded = torch.nn.functional.pad(block, (0, of_lists.length - length), value=-1)
        # A slate of a short list is tried once, by the order that puts the padding last.
        value = of_lists.value(padded)
        parts.append(value.masked_fill((real != filled).any(dim=2), -math.inf))
    return torch.cat(parts, dim=1)


def best_slates(values: Tensor, sizes: Tensor, size: int, length: int) -> Tensor:
    """Return the best slates int64 [B, length], -1 past a list's end, by values [B, P].

    Args:
        sizes: number of real candidates of each list, int64 [B].
        size: number of columns of the lists, padding included.
    """
    slate = orders_of(size, length).to(values.device)[values.argmax(dim=1)]
    slate = torch.nn.functional.pad(slate, (0, length - slate.shape[1]), value=-1)
    places = torch.arange(length, device=values.device)
    return torch.where(places < sizes.unsqueeze(1), slate, -1)


def losses_along(values: Tensor, slates: Tensor, size: int) -> Tensor:
    """Return the losses of choosing each candidate before each position, float [B, K, N] <= 0.

    The loss is the value of the best slate that begins with the items so far and the candidate,
    minus that of the best slate that begins with the items so far. Candidates that cannot be chosen
    have 0.

    Args:
        values: of all slates, float [B, P].
        slates: int64 [B, K].
        size: N.
    """
    orders = orders_of(size, slates.shape[1]).to(values.device)
    follows = torch.ones_like(values, dtype=torch.bool)  # orders that begin with the items so far
    losses = values.new_zeros(*slates.shape, size)
    for position in range(orders.shape[1]):
        column = orders[:, position].expand(len(values), -1)
        reached = values.masked_fill(~follows, -math.inf)
        best = values.new_full((len(values), size), -math.inf)
        best = best.scatter_reduce(1, column, reached, "amax")
        loss = best - best.amax(dim=1, keepdim=True)
        losses[:, position] = torch.where(best.isfinite(), loss, 0.0)
        follows = follows & (column == slates[:, position, None])
    return losses
