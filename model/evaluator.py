"""The evaluator: what a slate, in this order, is worth to this user; and GRPO against it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import NetworkConfig
from model.layers import Block, CandidateEmbedding


class Evaluator(nn.Module):
    """Like-logit of each item of a slate from item, user, position and the items around it."""

    def __init__(
        self, config: NetworkConfig, numbers: int, vocabulary: int, positions: int
    ) -> None:
        super().__init__()
        width = config.width
        self.embed = CandidateEmbedding(numbers, vocabulary, width, config.dropout)
        self.position = nn.Embedding(positions, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.block = Block(width, config.heads, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, candidates: Tensor, mask: Tensor) -> Tensor:
        """Embedded slate items [B, K, D] in order, mask [B, K] -> logits [B, K]."""
        positions = torch.arange(candidates.shape[1], device=candidates.device)
        positions = positions.clamp(max=self.position.num_embeddings - 1)
        x = self.block(candidates + self.position(positions), mask)
        return self.head(self.norm(x)).squeeze(2)

    def utility(self, embedded: Tensor, slate: Tensor) -> Tensor:
        """Rank-discounted mean like-probability [B] of slate int64 [B, K] (-1 = no item).

        embedded [B, N, D] is `self.embed` of the whole candidate list, which several slates share.
        """
        mask = slate >= 0
        index = slate.clamp(min=0).unsqueeze(2).expand(-1, -1, embedded.shape[2])
        likes = torch.sigmoid(self(embedded.gather(1, index), mask))
        weight = discount(slate.shape[1], slate.device) * mask
        return (likes * weight).sum(dim=1) / weight.sum(dim=1)


def discount(positions: int, device: torch.device | None = None) -> Tensor:
    """1 / log2(position + 2), float [K]: the weights of DCG."""
    return 1.0 / torch.log2(torch.arange(positions, device=device) + 2.0)


def advantages(reward: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Rewards [R, G] -> (r - mean) / (std + eps) within each group; a flat group gives zeros."""
    centred = reward - reward.mean(dim=1, keepdim=True)
    std = reward.std(dim=1, unbiased=False, keepdim=True)
    return torch.where(std > epsilon, centred / (std + epsilon), torch.zeros_like(centred))


def grpo_loss(
    logprob: Tensor,
    sampled_logprob: Tensor,
    reference_logprob: Tensor,
    advantage: Tensor,
    alive: Tensor,
    clip: float,
    kl: float,
) -> Tensor:
    """Clipped policy loss over item choices (GRPO, arXiv 2402.03300, eq. 3), a scalar.

    logprob, sampled_logprob, reference_logprob [R, K] of the chosen items now, when sampled, and
    under the warm start; advantage [R]; alive bool [R, K]. Reasoning tokens are not choices: they
    carry gradient but no likelihood of their own.
    """
    ratio = torch.exp(logprob - sampled_logprob)
    gain = torch.minimum(
        ratio * advantage.unsqueeze(1), ratio.clamp(1 - clip, 1 + clip) * advantage.unsqueeze(1)
    )
    # Unbiased and never negative estimator of the divergence (arXiv 2402.03300, eq. 4).
    log_ratio = reference_logprob - logprob
    divergence = torch.exp(log_ratio) - log_ratio - 1.0
    return -((gain - kl * divergence) * alive).sum() / alive.sum()
