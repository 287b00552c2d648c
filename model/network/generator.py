"""The generator: a set encoder, a host that reads the slate so far, a pointer head.

Every host (model.network.hosts) reasons the same way. (P) marks the paper, arXiv 2601.13533, and
(C) a choice of this implementation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.network.config import NetworkConfig, ReasoningConfig
from model.network.hosts import HOSTS, Host
from model.network.layers import MASKED, Block, CandidateEmbedding, attention_bias, full_precision


class Encoded(NamedTuple):
    """One batch of candidate lists, which is encoded once and read at every step."""

    candidates: Tensor  # [B, N, D]
    keys: Tensor  # [B, N, D], of the pointer head, already scaled
    mask: Tensor  # [B, N], true at real candidates
    memory: tuple[Tensor, ...]  # of the host

    def per_request(self, rows: Tensor) -> Tensor:
        """Group rows by request: [R, X] -> [B, G, X]."""
        return rows.view(self.mask.shape[0], -1, rows.shape[1])


class Choice(NamedTuple):
    """The next choice of R slates: the available candidates and their logits."""

    available: Tensor  # [R, N] bool: neither padded nor chosen before
    logits: Tensor  # [R, N], MASKED where not available
    entropy: Tensor  # [R] nats, over available candidates, at temperature 1
    state: tuple[Tensor, ...]  # of the host
    adjustment: Tensor | None = None  # [R, N], of the intent; the logits hold it


class Generator(nn.Module):
    """Computes the kinds of steps of a slate: encode, begin, reason, recommend.

    Training and export both compose slates from these (model.network.reasoning,
    export.graph.compose).
    """

    def __init__(
        self,
        config: NetworkConfig,
        numbers: int,
        vocabulary: int,
        slate_length: int,
        reasoning: ReasoningConfig,
    ) -> None:
        super().__init__()
        width = config.width
        self.reasoning = reasoning
        self.embed = CandidateEmbedding(
            numbers, vocabulary, width, config.dropout, config.input_dropout
        )
        self.blocks = nn.ModuleList(
            [Block(width, config.heads, config.dropout) for _ in range(config.encoder_blocks)]
        )
        self.encoded_norm = nn.LayerNorm(width)
        self.host: Host = HOSTS[config.host](width, config.heads, config.dropout)
        self.pointer_query = nn.Linear(width, width)
        self.pointer_key = nn.Linear(width, width)
        self.prior = nn.Linear(width, 1)
        self.start_token = nn.Parameter(torch.randn(width) * 0.02)
        self.item_token = nn.Linear(width, width)
        self.position = nn.Embedding(slate_length, width)
        self.reason_token = nn.Linear(width, width)
        # Row s is the sum of the type embedding and the step embedding of reasoning step s; nothing
        # reads them apart. At least one row, so that a plain host has the same parameters.
        self.reason_step = nn.Embedding(max(reasoning.budget, 1), width)
        # Zero at first: reasoning starts as the plain host and learns a correction of it.
        self.refine = nn.Linear(width, width)
        nn.init.zeros_(self.refine.weight)
        nn.init.zeros_(self.refine.bias)

    def encode(self, numbers: Tensor, tokens: Tensor, mask: Tensor) -> Encoded:
        """Encode numbers [B, N, F], tokens [B, N, T], mask [B, N]; equivariant in candidates."""
        candidates = self.embed(numbers, tokens)
        bias = attention_bias(mask)
        for block in self.blocks:
            candidates = block(candidates, bias)
        candidates = self.encoded_norm(candidates).float()
        with full_precision(candidates.device):
            keys = self.pointer_key(candidates) * candidates.shape[-1] ** -0.5
        return Encoded(candidates, keys, mask, self.host.memory(candidates, mask))

    def begin(
        self,
        encoded: Encoded,
        group: int = 1,
        available: Tensor | None = None,
        adjustment: Tensor | None = None,
    ) -> Choice:
        """Read the start token and return the choice at position 0 of `group` slates per request.

        available bool [B, N]: candidates that may be chosen; by default all of them. adjustment
        float [R, N]: is added to the logits.
        """
        available = encoded.mask if available is None else available
        if group > 1:
            available = available.repeat_interleave(group, 0)
        rows = available.shape[0]
        state = self.host.start(encoded.candidates, rows)
        token = self.start_token.expand(rows, -1)
        state = self.host.advance(encoded.memory, state, token, available.any(dim=1))
        return self._choice(encoded, available, state, adjustment)

    def reason(
        self,
        encoded: Encoded,
        choice: Choice,
        step: Tensor,
        active: Tensor,
        temperature: float | Tensor | None = None,
    ) -> Choice:
        """Read reasoning token number step (int64 scalar) where active [R], and choose anew.

        temperature: softens the aggregate (scalar or [R, 1]); by default the configured one.

        The token is the mean of the candidates under their softened probabilities (P, form C) plus
        the hidden state so far; the host's output for it, refined, is added to that state (C).
        """
        hidden = choice.state[-1]
        if temperature is None:
            temperature = self.reasoning.reason_temperature
        weights = torch.softmax(choice.logits / temperature, dim=-1)
        aggregate = encoded.per_request(weights) @ encoded.candidates
        aggregate = aggregate.view(-1, aggregate.shape[2])
        if self.reasoning.stop_gradient:
            aggregate = aggregate.detach()
        if self.reasoning.token == "learned":
            aggregate = torch.zeros_like(aggregate)
        token = self.reason_token(aggregate) + self.reason_step(step)
        if self.reasoning.update == "add":
            token = token + hidden
        if self.reasoning.token == "zero":
            token = torch.zeros_like(token)
        *state, read = self.host.advance(encoded.memory, choice.state, token, active)
        if self.reasoning.update == "add":
            read = torch.where(active.unsqueeze(1), hidden + self.refine(read), hidden)
        return self._choice(encoded, choice.available, (*state, read), choice.adjustment)

    def recommend(
        self,
        encoded: Encoded,
        choice: Choice,
        item: Tensor,
        position: Tensor,
        available: Tensor | None = None,
        adjustment: Tensor | None = None,
    ) -> Choice:
        """Put item [R] at position (int64 scalar) and return the next choice.

        available bool [R, N]: candidates that may be chosen next; by default those of this choice
        without the item, and a row with none left keeps its state and reads no item. adjustment
        float [R, N]: is added to the logits of the next choice.
        """
        alive = choice.available.any(dim=1)
        if available is None:
            index = torch.arange(choice.available.shape[1], device=item.device)
            available = choice.available & (index != item.unsqueeze(1))
        else:
            alive = torch.ones_like(alive)
        width = encoded.candidates.shape[2]
        index = encoded.per_request(item.unsqueeze(1)).expand(-1, -1, width)
        chosen = encoded.candidates.gather(1, index)
        token = self.item_token(chosen.view(-1, width)) + self.position(position)
        state = self.host.advance(encoded.memory, choice.state, token, alive)
        return self._choice(encoded, available, state, adjustment)

    def _choice(
        self,
        encoded: Encoded,
        available: Tensor,
        state: tuple[Tensor, ...],
        adjustment: Tensor | None,
    ) -> Choice:
        with full_precision(available.device):
            query = self.pointer_query(state[-1].float())
            logits = encoded.per_request(query) @ encoded.keys.transpose(1, 2)
            logits = logits + self.prior(encoded.candidates).transpose(1, 2)
        logits = logits.view(available.shape)
        if adjustment is not None:
            logits = logits + adjustment
        logits = logits.masked_fill(~available, MASKED)
        return Choice(available, logits, entropy(logits), state, adjustment)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy [R] in nats at temperature 1; logits [R, N], MASKED where unavailable."""
    logprob = torch.log_softmax(logits, dim=-1)
    return -(logprob.exp() * logprob).sum(dim=-1)
