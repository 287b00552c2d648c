"""Layers that generator and evaluator share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Finite, so that a row with no candidate left has a uniform distribution instead of NaN. exp(-1e9)
# is 0 exactly, so a masked entry adds not even a rounding error.
MASKED = -1e9


class CandidateEmbedding(nn.Module):
    """Embeds numbers [B, N, F] and tokens [B, N, T] as [B, N, D]; token embeddings add up."""

    def __init__(
        self,
        numbers: int,
        vocabulary: int,
        width: int,
        dropout: float,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(numbers, width)
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.02)
        with torch.no_grad():
            self.table.weight[0].zero_()
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.input_dropout = nn.Dropout(input_dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Tensor, tokens: Tensor) -> Tensor:
        embedded = self.project(self.input_dropout(numbers))
        if tokens.shape[-1]:
            embedded = embedded + self.dropout(self.table(tokens).sum(dim=2))
        embedded = embedded + self.hidden(self.dropout(functional.gelu(embedded)))
        return self.norm(embedded)


class Attention(nn.Module):
    """Multi-head attention with separate projections, so that keys and values can be cached."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, L, D / heads]

    def memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project x [B, L, D] to keys and values, each [B, heads, L, D / heads]."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attend with queries x [B, Q, D]; bias [B, 1, 1, L] is added to the scores."""
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
    """Turn a mask bool [B, L] into a bias float [B, 1, 1, L]: 0 where true, else MASKED."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, MASKED)[:, None, None]


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context of float32 within autocast, for heads whose outputs are compared.

    bfloat16 keeps 8 bits, a spacing of 0.016 at a logit of 3. Two items, an entropy and its
    threshold, or the two likelihoods of a ratio are often closer than that.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def feed_forward(width: int) -> nn.Sequential:
    """Return two linear layers with a GELU, twice as wide inside."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
