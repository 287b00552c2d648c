"""Hosts: decoders that read the tokens of a slate for the reasoning loop.

A host is any torch module with the three methods of `Host`; generator and loop use nothing else of
it. To add one, write a class here and enter it in HOSTS; to export it, write its lowering in
export/graph/lower.py (CONTRIBUTING.md, "Add a host").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.network.layers import Attention, attention_bias, feed_forward


class Host(Protocol):
    """The interface of a decoder, which is also a torch module.

    `Generator` calls `memory` once per batch of requests and `start` once per batch of slates. Then
    it calls `advance` for each token: the start token; before each position any number of reasoning
    tokens; after each position but the last the token of the item put there. All tokens come
    through the same method, and a host cannot tell them apart.

    A host masks its own state: in a row where `active` is false the token must leave no trace. The
    generator masks the logits and entropies that it computes from the hidden state.

    States are tuples of tensors, rows first; the last one is the hidden state [R, D] that the
    pointer head reads, and the generator may replace it between two calls. Several slates may be
    composed for one request: R = B * G rows, those of a request side by side. Tensors of the
    request (candidates and memory) are never copied per row.
    """

    def memory(self, candidates: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Project candidates [B, N, D], mask [B, N] once per request."""

    def start(self, candidates: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Return the state before any token; its last tensor is the hidden state [R, D]."""

    def advance(
        self, memory: tuple[Tensor, ...], state: tuple[Tensor, ...], token: Tensor, active: Tensor
    ) -> tuple[Tensor, ...]:
        """Read token [R, D] where active bool [R] and return the next state.

        Another row keeps its hidden state, and no later output of it may depend on the token.
        """


class Glimpse(nn.Module):
    """Cross-attention to the candidates.

    The rows of one request are queries of one attention, so its memory is read once for all.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)

    def memory(self, candidates: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return *self.cross.memory(candidates), attention_bias(mask)

    def forward(self, memory: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """x [R, D] -> [R, D]."""
        queries = self.norm(x).view(memory[0].shape[0], -1, x.shape[1])
        return self.cross.attend(queries, *memory).view(x.shape)


class TransformerHost(nn.Module):
    """One decoder block: self-attention over the tokens so far, cross-attention to candidates.

    State: keys and values [R, heads, L, D / heads], bias [R, 1, 1, L], hidden [R, D]. A token that
    a row did not read occupies a slot of that row's cache, and the bias masks it there.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads)
        self.glimpse = Glimpse(width, heads)
        self.feed_forward = feed_forward(width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.dropout = nn.Dropout(dropout)
        self.register_load_state_dict_pre_hook(rename_self_attention)

    def memory(self, candidates: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return self.glimpse.memory(candidates, mask)

    def start(self, candidates: Tensor, rows: int) -> tuple[Tensor, ...]:
        width = candidates.shape[2]
        heads = self.self_attention.heads
        empty = candidates.new_zeros(rows, heads, 0, width // heads)
        nothing = candidates.new_zeros(rows, 1, 1, 0)
        return empty, empty.clone(), nothing, candidates.new_zeros(rows, width)

    def advance(
        self, memory: tuple[Tensor, ...], state: tuple[Tensor, ...], token: Tensor, active: Tensor
    ) -> tuple[Tensor, ...]:
        keys, values, bias, hidden = state
        normed = self.norms[0](token).unsqueeze(1)
        key, value = self.self_attention.memory(normed)
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        bias = torch.cat([bias, attention_bias(active.unsqueeze(1))], dim=3)
        x = token + self.dropout(self.self_attention.attend(normed, keys, values, bias).squeeze(1))
        x = x + self.dropout(self.glimpse(memory, x))
        x = x + self.dropout(self.feed_forward(self.norms[1](x)))
        return keys, values, bias, torch.where(active.unsqueeze(1), self.norms[2](x), hidden)


def rename_self_attention(
    _host: nn.Module, tensors: dict[str, Any], prefix: str, *_ignored: Any
) -> None:
    """Load checkpoints of version 0.1.0, which call the self-attention `own`."""
    old = f"{prefix}own."
    for name in [name for name in tensors if name.startswith(old)]:
        tensors[f"{prefix}self_attention.{name.removeprefix(old)}"] = tensors.pop(name)


class GruHost(nn.Module):
    """A GRU over the tokens so far with one glimpse at the candidates, after Seq2Slate.

    Seq2Slate (Bello et al., arXiv 1810.02019) is an LSTM with a pointer over the candidates as its
    output. Here the cell is a GRU, the pointer is the generator's, and the glimpse is added. State:
    recurrent [R, D], hidden [R, D]; its cost does not grow with the tokens read.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.glimpse = Glimpse(width, heads)
        self.feed_forward = feed_forward(width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.dropout = nn.Dropout(dropout)

    def memory(self, candidates: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return self.glimpse.memory(candidates, mask)

    def start(self, candidates: Tensor, rows: int) -> tuple[Tensor, ...]:
        nothing = candidates.new_zeros(rows, candidates.shape[2])
        return nothing, nothing.clone()

    def advance(
        self, memory: tuple[Tensor, ...], state: tuple[Tensor, ...], token: Tensor, active: Tensor
    ) -> tuple[Tensor, ...]:
        recurrent, hidden = state
        new = self.cell(self.norms[0](token), recurrent)
        x = token + self.dropout(new)
        x = x + self.dropout(self.glimpse(memory, x))
        x = x + self.dropout(self.feed_forward(self.norms[1](x)))
        read = active.unsqueeze(1)
        return torch.where(read, new, recurrent), torch.where(read, self.norms[2](x), hidden)


class PointerHost(nn.Module):
    """The GRU host without its glimpse: it never looks at the candidates while it decodes.

    It sees the list only through its tokens: the chosen items, and the aggregates of reasoning
    steps. That is the generator of GRN (Feng et al., arXiv 2104.00860), a GRU with attention and a
    pointer network, without the attention. Configurations call it "pointer", although the pointer
    head belongs to the generator and every host has it. State: recurrent [R, D], hidden [R, D].
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.feed_forward = feed_forward(width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.dropout = nn.Dropout(dropout)

    def memory(self, candidates: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return ()

    def start(self, candidates: Tensor, rows: int) -> tuple[Tensor, ...]:
        nothing = candidates.new_zeros(rows, candidates.shape[2])
        return nothing, nothing.clone()

    def advance(
        self, memory: tuple[Tensor, ...], state: tuple[Tensor, ...], token: Tensor, active: Tensor
    ) -> tuple[Tensor, ...]:
        recurrent, hidden = state
        new = self.cell(self.norms[0](token), recurrent)
        x = token + self.dropout(new)
        x = x + self.dropout(self.feed_forward(self.norms[1](x)))
        read = active.unsqueeze(1)
        return torch.where(read, new, recurrent), torch.where(read, self.norms[2](x), hidden)


# Name in a configuration (`network.host`) -> class, called with width, heads and dropout.
HOSTS: dict[str, Callable[[int, int, float], Host]] = {
    "transformer": TransformerHost,
    "gru": GruHost,
    "pointer": PointerHost,
}
