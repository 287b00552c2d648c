"""The generator: a set encoder, a host that holds the slate so far, a pointer head.

A host is any module with the three methods of `Host`; the reasoning loop (model.reasoning) sees
nothing else of it, so every host reasons the same way. Marks: (P) the paper, arXiv 2601.13533;
(C) chosen here.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from model.config import NetworkConfig
from model.layers import MASKED, Attention, Block, CandidateEmbedding, feed_forward


class Host(Protocol):
    """What the reasoning loop needs of a decoder; states are tuples of tensors, batch first."""

    def memory(self, candidates: Tensor) -> tuple[Tensor, ...]:
        """Per-request projections of candidates [B, N, D], computed once."""

    def start(self, candidates: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The state before any token; its last tensor is the hidden state [B, D]."""

    def advance(
        self,
        memory: tuple[Tensor, ...],
        mask: Tensor,
        state: tuple[Tensor, ...],
        token: Tensor,
        active: Tensor,
    ) -> tuple[Tensor, ...]:
        """Read token [B, D] where active [B]; elsewhere the state stays as it was."""


class TransformerHost(nn.Module):
    """One decoder block: self-attention over the tokens so far, cross-attention to candidates.

    State: keys and values [B, heads, L, D / heads], valid [B, L], hidden [B, D]. A token that a
    row did not read occupies a slot of that row's cache and is masked there.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.own = Attention(width, heads)
        self.cross = Attention(width, heads)
        self.feed_forward = feed_forward(width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])
        self.dropout = nn.Dropout(dropout)

    def memory(self, candidates: Tensor) -> tuple[Tensor, ...]:
        return self.cross.memory(candidates)

    def start(self, candidates: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        batch, _, width = candidates.shape
        empty = candidates.new_zeros(batch, self.own.heads, 0, width // self.own.heads)
        return empty, empty.clone(), mask[:, :0], torch.zeros_like(candidates[:, 0])

    def advance(
        self,
        memory: tuple[Tensor, ...],
        mask: Tensor,
        state: tuple[Tensor, ...],
        token: Tensor,
        active: Tensor,
    ) -> tuple[Tensor, ...]:
        keys, values, valid, hidden = state
        x = token.unsqueeze(1)
        normed = self.norms[0](x)
        key, value = self.own.memory(normed)
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        valid = torch.cat([valid, active.unsqueeze(1)], dim=1)
        x = x + self.dropout(self.own.attend(normed, keys, values, valid))
        x = x + self.dropout(self.cross.attend(self.norms[1](x), *memory, mask))
        x = x + self.dropout(self.feed_forward(self.norms[2](x)))
        new = self.norms[3](x).squeeze(1)
        return keys, values, valid, torch.where(active.unsqueeze(1), new, hidden)


class Encoded(NamedTuple):
    """One batch of candidate lists, encoded once and read at every step."""

    candidates: Tensor  # [B, N, D]
    keys: Tensor  # [B, N, D], of the pointer head, already scaled
    mask: Tensor  # [B, N], true at real candidates
    memory: tuple[Tensor, ...]  # of the host

    def repeat(self, group: int) -> Encoded:
        """Each request `group` times, copies side by side: for sampling G slates."""
        return Encoded(
            *(tensor.repeat_interleave(group, 0) for tensor in self[:3]),
            tuple(tensor.repeat_interleave(group, 0) for tensor in self.memory),
        )


class Choice(NamedTuple):
    """Where a batch of slates stands: what may be chosen next, and how likely."""

    available: Tensor  # [B, N] bool: neither padded nor chosen before
    logits: Tensor  # [B, N], MASKED where not available
    entropy: Tensor  # [B] nats, over available candidates, at temperature 1
    state: tuple[Tensor, ...]  # of the host


class Generator(nn.Module):
    """Step kinds of the re-ranker: encode, begin, reason, recommend.

    Training and export both compose slates from these (model.reasoning, export.compose).
    """

    def __init__(
        self,
        config: NetworkConfig,
        numbers: int,
        vocabulary: int,
        slate_length: int,
        budget: int,
        reason_temperature: float,
    ) -> None:
        super().__init__()
        width = config.width
        self.reason_temperature = reason_temperature
        self.embed = CandidateEmbedding(numbers, vocabulary, width, config.dropout)
        self.blocks = nn.ModuleList(
            [Block(width, config.heads, config.dropout) for _ in range(config.encoder_blocks)]
        )
        self.encoded_norm = nn.LayerNorm(width)
        self.host: Host = TransformerHost(width, config.heads, config.dropout)
        self.pointer_query = nn.Linear(width, width)
        self.pointer_key = nn.Linear(width, width)
        self.prior = nn.Linear(width, 1)
        self.start_token = nn.Parameter(torch.randn(width) * 0.02)
        self.item_token = nn.Linear(width, width)
        self.position = nn.Embedding(slate_length, width)
        self.reason_token = nn.Linear(width, width)
        # Row s is the type embedding plus the step embedding of reasoning step s: their sum is
        # all that is ever used. One row at least, so that a plain host has the same parameters.
        self.reason_step = nn.Embedding(max(budget, 1), width)

    def encode(self, numbers: Tensor, tokens: Tensor, mask: Tensor) -> Encoded:
        """numbers [B, N, F], tokens [B, N, T], mask [B, N]; equivariant in the candidates."""
        candidates = self.embed(numbers, tokens)
        for block in self.blocks:
            candidates = block(candidates, mask)
        candidates = self.encoded_norm(candidates)
        keys = self.pointer_key(candidates) * candidates.shape[-1] ** -0.5
        return Encoded(candidates, keys, mask, self.host.memory(candidates))

    def begin(self, encoded: Encoded) -> Choice:
        """Read the start token: the choice at position 0."""
        state = self.host.start(encoded.candidates, encoded.mask)
        token = self.start_token.expand(encoded.mask.shape[0], -1)
        everyone = encoded.mask.any(dim=1)
        state = self.host.advance(encoded.memory, encoded.mask, state, token, everyone)
        return self._choice(encoded, encoded.mask, state)

    def reason(self, encoded: Encoded, choice: Choice, step: Tensor, active: Tensor) -> Choice:
        """Append reasoning token number step (int64 scalar) where active [B], and choose anew.

        The token is an aggregate of the candidates by their softened probabilities (P, form C).
        """
        weights = torch.softmax(choice.logits / self.reason_temperature, dim=-1)
        aggregate = (weights.unsqueeze(1) @ encoded.candidates).squeeze(1)
        token = self.reason_token(aggregate) + self.reason_step(step)
        state = self.host.advance(encoded.memory, encoded.mask, choice.state, token, active)
        return self._choice(encoded, choice.available, state)

    def recommend(self, encoded: Encoded, choice: Choice, item: Tensor, position: Tensor) -> Choice:
        """Put item [B] at position (int64 scalar) and move on to the next choice.

        A row with nothing left stays as it is; its item is not read.
        """
        alive = choice.available.any(dim=1)
        index = torch.arange(choice.available.shape[1], device=item.device)
        available = choice.available & (index != item.unsqueeze(1))
        chosen = encoded.candidates.gather(
            1, item.view(-1, 1, 1).expand(-1, 1, encoded.candidates.shape[-1])
        ).squeeze(1)
        token = self.item_token(chosen) + self.position(position)
        state = self.host.advance(encoded.memory, encoded.mask, choice.state, token, alive)
        return self._choice(encoded, available, state)

    def _choice(self, encoded: Encoded, available: Tensor, state: tuple[Tensor, ...]) -> Choice:
        query = self.pointer_query(state[-1])
        logits = (encoded.keys @ query.unsqueeze(2)).squeeze(2)
        logits = logits + self.prior(encoded.candidates).squeeze(2)
        logits = logits.masked_fill(~available, MASKED)
        return Choice(available, logits, entropy(logits), state)


def entropy(logits: Tensor) -> Tensor:
    """Logits [B, N], MASKED where unavailable -> nats [B], at temperature 1."""
    logprob = torch.log_softmax(logits, dim=-1)
    return -(logprob.exp() * logprob).sum(dim=-1)
