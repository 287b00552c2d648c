"""The evaluator: estimates the utility of a slate, in its order, for one user."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from model.network.config import NetworkConfig
from model.network.layers import Block, CandidateEmbedding, attention_bias, full_precision


class RewardModel(Protocol):
    """Rewards a generator: an `Evaluator`, or a simulation whose utility can be computed."""

    def embed(self, numbers: Tensor, tokens: Tensor, /) -> Tensor:
        """numbers [B, N, F], tokens [B, N, T] -> candidates [B, N, X] as `utility` reads them."""

    def utility(self, embedded: Tensor, slate: Tensor) -> Tensor:
        """Return the utility [B] of slates int64 [B, K] (-1 = no item)."""


class Evaluator(nn.Module):
    """Estimates the like-logit of each item of a slate from item, user, position and neighbours."""

    def __init__(
        self,
        config: NetworkConfig,
        numbers: int,
        vocabulary: int,
        positions: int,
        discounted: bool = True,
    ) -> None:
        super().__init__()
        width = config.width
        self.discounted = discounted
        self.embed = CandidateEmbedding(
            numbers, vocabulary, width, config.dropout, config.input_dropout
        )
        self.position = nn.Embedding(positions, width)
        nn.init.normal_(self.position.weight, std=0.02)
        # A GRU reads the previous item directly; attention learns slowly to look there.
        self.recurrent = nn.GRU(width, width, batch_first=True) if config.recurrent else None
        self.blocks = nn.ModuleList(
            [Block(width, config.heads, config.dropout) for _ in range(config.encoder_blocks)]
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, candidates: Tensor, mask: Tensor) -> Tensor:
        """Embedded slate items [B, K, D] in order, mask [B, K] -> logits [B, K]."""
        positions = torch.arange(candidates.shape[1], device=candidates.device)
        positions = positions.clamp(max=self.position.num_embeddings - 1)
        x, bias = candidates + self.position(positions), attention_bias(mask)
        if self.recurrent is not None:
            x = x + self.recurrent(x)[0]
        for block in self.blocks:
            x = block(x, bias)
        with full_precision(x.device):
            return self.head(self.norm(x.float())).squeeze(2)

    def utility(self, embedded: Tensor, slate: Tensor) -> Tensor:
        """Return the mean like-probability [B] of slates int64 [B, K] (-1 = no item).

        The mean is discounted by position as in DCG, or even. embedded [B, N, D] is `self.embed` of
        the whole candidate list, which several slates share.
        """
        mask = slate >= 0
        index = slate.clamp(min=0).unsqueeze(2).expand(-1, -1, embedded.shape[2])
        likes = torch.sigmoid(self(embedded.gather(1, index), mask))
        weight = mask * (discount(slate.shape[1], slate.device) if self.discounted else 1.0)
        return (likes * weight).sum(dim=1) / weight.sum(dim=1)


def discount(positions: int, device: torch.device | None = None) -> Tensor:
    """Return 1 / log2(position + 2), float [K]: the weights of DCG."""
    return 1.0 / torch.log2(torch.arange(positions, device=device) + 2.0)
