"""The building blocks that generator and evaluator share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Finite, so that a row with nothing left gives a harmless uniform instead of NaN; exp(-1e9) is 0
# exactly, so a masked entry adds nothing, not even rounding.
MASKED = -1e9


class CandidateEmbedding(nn.Module):
    """numbers [B, N, F] and tokens [B, N, T] -> [B, N, D]; every token counts alike."""

    def __init__(self, numbers: int, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(numbers, width)
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.02)
        with torch.no_grad():
            self.table.weight[0].zero_()
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Tensor, tokens: Tensor) -> Tensor:
        embedded = self.project(numbers)
        if tokens.shape[-1]:
            embedded = embedded + self.dropout(self.table(tokens).sum(dim=2))
        embedded = embedded + self.hidden(self.dropout(functional.gelu(embedded)))
        return self.norm(embedded)


class Attention(nn.Module):
    """Multi-head attention with its projections apart, so that keys and values can be kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, L, D / heads]

    def memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, L, D] -> keys and values, each [B, heads, L, D / heads]."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Queries x [B, Q, D] over a memory; bias [B, 1, 1, L] is added to its scores."""
        mixed = functional.scaled_dot_product_attention(
            self._split(self.query(x)), keys, values, attn_mask=bias
        )
        return self.output(mixed.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Pre-norm transformer block over a set: x [B, L, D], bias [B, 1, 1, L] -> [B, L, D]."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = feed_forward(width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.norms[0](x)
        keys, values = self.attention.memory(normed)
        x = x + self.dropout(self.attention.attend(normed, keys, values, bias))
        return x + self.dropout(self.feed_forward(self.norms[1](x)))


def attention_bias(mask: Tensor) -> Tensor:
    """bool [B, L] -> float [B, 1, 1, L]: 0 where true, else MASKED; what attention scores get."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, MASKED)[:, None, None]


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Float32 within autocast: for heads whose outputs are compared.

    bfloat16 keeps 8 bits. At a logit of 3 that is 0.016: more than what often lies between two
    items, between an entropy and its threshold, or between a likelihood and the one it came from.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def feed_forward(width: int) -> nn.Sequential:
    """Two layers, twice as wide inside."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
