"""Neural re-rankers from the literature, on the project's features, splits and selection.

Every function fits on `train`, keeps the epoch with the best NDCG@10 on `valid` (and stops a few
epochs after it), and returns greedy slates int64 [R, K] of `test`, -1 past the end of a list. All
lists must hold a positive and a negative (`Lists.rankable`). `vocabulary` is the number of tokens.
The same seed gives the same slates on the same machine; the caller's random state is not changed.

Width, heads, dropout and optimiser are the defaults of `model.network.config`, as for the hosts
that these baselines are compared with.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange

from model.data.lists import Lists
from model.data.metrics import selecting_metric, slate_metrics
from model.learning.policy import Batch, Policy, descend
from model.network.config import Config, NetworkConfig, ReasoningConfig
from model.network.evaluator import discount
from model.network.generator import Generator
from model.network.layers import MASKED, Block, CandidateEmbedding, attention_bias

Array = np.ndarray[Any, Any]
NETWORK = NetworkConfig()
LEARNING_RATE = 1e-3
EPOCHS = 12  # upper bound; validation peaks earlier
PATIENCE = 3  # epochs without a better validation NDCG@10 before giving up


def nar4rec(
    train: Lists, valid: Lists, test: Lists, slate_length: int, seed: int, vocabulary: int
) -> Array:
    """Rank with a non-autoregressive generator after NAR4Rec (Ren et al., arXiv 2402.06871).

    All [K, N] matching logits of positions and candidates come at once, then each position in turn
    takes its likeliest candidate, without repeats. Kept from the paper: candidate and position
    encoders and the matching. Left out: unlikelihood training on slates without a click, the
    sequence evaluator, and contrastive decoding (a penalty for similar neighbours).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        matcher = Matcher(train.numbers.shape[2], vocabulary, slate_length)
        learn(
            "nar4rec",
            matcher,
            lambda batch: matching_loss(matcher(batch), batch.gains),
            lambda lists: assign(_forward(matcher, lists), lists.mask),
            train,
            valid,
        )
        return assign(_forward(matcher, test), test.mask)


def seq2slate(
    train: Lists, valid: Lists, test: Lists, slate_length: int, seed: int, vocabulary: int
) -> Array:
    """Rank with Seq2Slate (Bello et al., arXiv 1810.02019): the GRU host without reasoning.

    Training is its supervised cross-entropy along sampled slates. Left out: REINFORCE with the
    labels as reward, which changed nothing on these data
    (docs/reports/archive/quality-2026-11.md). The encoder is the set transformer of this project,
    where the paper has an LSTM over the initial list.
    """
    network = dataclasses.replace(NETWORK, host="gru")
    # Temperature 1 samples from the learnt distribution.
    reasoning = ReasoningConfig(budget=0, recommend_temperature=1.0)
    config = Config(slate_length=slate_length, network=network, reasoning=reasoning)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = train.numbers.shape[2]
        generator = Generator(network, width, vocabulary, slate_length, reasoning)
        policy = Policy(config, generator, 0.0)

        def slates(lists: Lists) -> Array:
            return torch.cat([decoded.slate for decoded in policy.greedy_slates(lists, 0)]).numpy()

        def supervised(batch: Batch) -> Tensor:
            return policy.supervised_loss(batch, 0)

        learn("seq2slate", generator, supervised, slates, train, valid)
        return slates(test)


class Matcher(nn.Module):
    """Match candidates and positions: logits [B, K, N], all at once; padding gets MASKED.

    Self-attention encodes both sides; positions then attend to the candidates.
    """

    def __init__(
        self,
        numbers: int,
        vocabulary: int,
        slate_length: int,
    ) -> None:
        super().__init__()
        width = NETWORK.width
        self.embed = CandidateEmbedding(numbers, vocabulary, width, NETWORK.dropout)
        self.candidates = Block(width, NETWORK.heads, NETWORK.dropout)
        self.position = nn.Parameter(torch.randn(slate_length, width) * 0.02)
        self.positions = Block(width, NETWORK.heads, NETWORK.dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.prior = nn.Linear(width, 1)

    def forward(self, batch: Batch) -> Tensor:
        bias = attention_bias(batch.mask)
        x = self.candidates(self.embed(batch.numbers, batch.tokens), bias)
        slots = self.position.expand(len(x), -1, -1)
        # One block over positions and candidates together: positions attend to both, and only
        # their rows are used.
        everything = torch.cat([slots, x], dim=1)
        seen = torch.cat(
            [torch.ones_like(batch.mask[:, :1]).expand(slots.shape[:2]), batch.mask], 1
        )
        slots = self.norms[0](self.positions(everything, attention_bias(seen))[:, : slots.shape[1]])
        x = self.norms[1](x)
        logits = self.query(slots) @ self.key(x).transpose(1, 2) * x.shape[2] ** -0.5
        return (logits + self.prior(x).transpose(1, 2)).masked_fill(
            ~batch.mask.unsqueeze(1), MASKED
        )


def matching_loss(logits: Tensor, gains: Tensor) -> Tensor:
    """Return the rank-discounted cross-entropy of the likes at the first positions, a scalar.

    logits [B, K, N], gains [B, N]. A good slate has its P gains above 0 at the first P positions,
    so each of those positions has the gains as its target; later positions have no target.
    """
    count = (gains > 0).sum(dim=1, keepdim=True)  # [B, 1]
    target = (gains / gains.sum(dim=1, keepdim=True).clamp(min=1e-9)).unsqueeze(1)
    loss = -(torch.log_softmax(logits, dim=2) * target).sum(dim=2)  # [B, K]
    position = torch.arange(logits.shape[1])
    weight = discount(logits.shape[1]) * (position < count)
    return (loss * weight).sum() / weight.sum().clamp(min=1e-9)


def assign(logits: Array, mask: Array) -> Array:
    """Turn matching logits [R, K, N] and mask [R, N] into slates int64 [R, K]; -1 past the end.

    Positions choose in turn, the first position first, among the remaining candidates.
    """
    rows = np.arange(len(mask))
    left = mask.copy()
    slate = np.full(logits.shape[:2], -1, np.int64)
    for position in range(logits.shape[1]):
        best = np.where(left, logits[:, position], -np.inf).argmax(axis=1)
        slate[:, position] = np.where(left.any(axis=1), best, -1)
        left[rows, best] = False
    return slate


def learn(
    name: str,
    module: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    slates: Callable[[Lists], Array],
    train: Lists,
    valid: Lists,
    epochs: int = EPOCHS,
    batch: int = 64,
) -> float:
    """Train with AdamW until validation NDCG@10 has not risen for PATIENCE epochs.

    `module` ends in evaluation mode with the weights of the best epoch; its initial weights count
    as an epoch. Returns that epoch's validation NDCG@10.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.05)

    def validate() -> float:
        module.eval()
        metrics = slate_metrics(slates(valid), valid.labels, valid.scale)
        return float(metrics[selecting_metric(valid.scale)].mean())

    best, best_weights, stale = validate(), copy.deepcopy(module.state_dict()), 0
    steps = max(1, len(train) // batch)
    bar = trange(epochs, desc=name, disable=None, leave=False)
    for epoch in bar:
        module.train()
        order = torch.randperm(len(train)).numpy()
        for step in range(steps):
            # Linear warm-up over the first epoch, then a cosine to a tenth.
            progress = (epoch * steps + step) / (epochs * steps)
            rate = min(1.0, (epoch * steps + step + 1) / steps)
            rate *= 0.1 + 0.45 * (1.0 + float(np.cos(np.pi * progress)))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate
            rows = order[step * batch : (step + 1) * batch]
            descend(optimizer, module, loss_of(Batch(train, rows)))
        score = validate()
        bar.set_postfix({"valid ndcg@10": f"{score:.4f}"})
        if score > best:
            best, best_weights, stale = score, copy.deepcopy(module.state_dict()), 0
        else:
            stale += 1
        if stale >= PATIENCE:
            break
    bar.close()
    module.load_state_dict(best_weights)
    module.eval()
    return best


@torch.no_grad()
def _forward(module: nn.Module, lists: Lists, batch: int = 512) -> Array:
    """Return the module's output over all lists, without dropout."""
    module.eval()
    outputs = [
        module(Batch(lists, slice(start, start + batch))) for start in range(0, len(lists), batch)
    ]
    return torch.cat(outputs).numpy()
