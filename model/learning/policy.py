"""The policy, a generator with its gate, and the losses of supervised training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.data.lists import Lists
from model.learning.distributed import all_reduce, all_reduce_gradients
from model.learning.optimizer import clip_gradients
from model.network.config import Config
from model.network.controls import control_gate
from model.network.evaluator import Evaluator, discount
from model.network.generator import Encoded, Generator
from model.network.reasoning import Decoded, EntropyGate, Gate, decode, follow, greedy


class Batch:
    """One minibatch of lists as tensors on one device: numbers, tokens, mask, labels.

    `gains` and `targets` [B, N] are those of the labels on the lists' scale; `index` are the
    numbers of the lists among all.
    """

    def __init__(
        self, lists: Lists, index: np.ndarray[Any, Any] | slice, device: torch.device | None = None
    ) -> None:
        arrays = lists.read(index)
        self.index = index
        self.scale = lists.scale
        read = (torch.from_numpy(array).to(device) for array in arrays)
        self.numbers, self.tokens, self.mask, self.labels = read
        self.gains = torch.from_numpy(lists.scale.gain(arrays.labels)).to(device)
        self.targets = torch.from_numpy(lists.scale.target(arrays.labels)).to(device)


class Policy:
    """A generator with the gate and the temperatures of its configuration.

    Args:
        threshold: entropy threshold, in nats, or as a share of the maximum for "normalised".
        share: part of all K x S steps that the entropy gate takes on validation lists; control
            gates take as many.
    """

    def __init__(
        self, config: Config, generator: Generator, threshold: float, share: float = 0.0
    ) -> None:
        self.config, self.generator = config, generator
        self.threshold, self.share = threshold, share

    def configured_gate(
        self, rows: int, budget: int, device: torch.device, learning: bool = False
    ) -> Gate:
        """Build the configured gate, with one threshold for every row; budget 0 turns any off.

        With `learning`, random_budget draws each row's budget from 0 to `budget`, and training_gate
        may take every step.
        """
        reasoning = self.config.reasoning
        name = "always" if learning and reasoning.training_gate == "always" else reasoning.gate
        if budget and name not in ("entropy", "normalised"):
            return control_gate(name, self.config.slate_length, budget, self.share)
        gate = self.entropy_gate(rows, budget, device)
        if learning and reasoning.random_budget:
            gate.budget = torch.randint(0, budget + 1, (rows,)).to(device)
        return gate

    def entropy_gate(self, rows: int, budget: int, device: torch.device) -> EntropyGate:
        """Build the entropy gate that the threshold is for, with one budget for every row."""
        return EntropyGate(
            torch.full((rows,), self.threshold, device=device),
            torch.full((rows,), budget, dtype=torch.int64, device=device),
            self.config.reasoning.gate == "normalised",
        )

    def decode(
        self,
        encoded: Encoded,
        pick: Callable[[int, Tensor], Tensor],
        gate: Gate | int,
        group: int = 1,
        learning: bool = False,
    ) -> Decoded:
        """Compose `group` slates per request; an integer is the budget of the configured gate."""
        if isinstance(gate, int):
            rows = encoded.mask.shape[0] * group
            gate = self.configured_gate(rows, gate, encoded.mask.device, learning)
        temperature = self.config.reasoning.recommend_temperature
        length = self.config.slate_length
        return decode(self.generator, encoded, length, pick, temperature, gate, group)

    @torch.no_grad()
    def greedy_slates(
        self, lists: Lists, budget: int, batch: int = 256, by_entropy: bool = False
    ) -> list[Decoded]:
        """Compose a greedy slate for every list, in batches, without dropout and without logits.

        The gate is the configured one, or with `by_entropy` the entropy gate.
        """
        self.generator.eval()
        device = self.generator.start_token.device
        decoded = []
        for start in range(0, len(lists), batch):
            b = Batch(lists, slice(start, start + batch), device)
            encoded = self.generator.encode(b.numbers, b.tokens, b.mask)
            gate = self.entropy_gate(len(b.mask), budget, device) if by_entropy else budget
            slates = self.decode(encoded, greedy, gate)
            empty = slates.logits[:, :0]
            decoded.append(slates._replace(logits=empty, logits_before=empty))
        return decoded

    def entropies(self, lists: Lists) -> Tensor:
        """Return the entropies [X] at all choices of greedy plain slates, in the gate's unit."""
        decoded = self.greedy_slates(lists, 0)
        entropies = torch.cat([d.entropy_before for d in decoded])
        if self.config.reasoning.gate == "normalised":
            sizes = torch.from_numpy(lists.mask.sum(axis=1)).unsqueeze(1)
            left = sizes - torch.arange(entropies.shape[1])
            entropies = entropies / left.clamp(min=2).log()
        return entropies[torch.cat([d.slate for d in decoded]) >= 0]

    def supervised_loss(self, batch: Batch, budget: int) -> Tensor:
        """Return the pointer loss along `logged_order`, one slate per request."""
        encoded = self.generator.encode(batch.numbers, batch.tokens, batch.mask)
        order = self.logged_order(batch, encoded)
        decoded = self.decode(encoded, follow(order), budget, learning=True)
        loss = pointer_loss(decoded.logits, order, batch.gains)
        deep = self.config.reasoning.deep_supervision
        if deep:
            before = pointer_loss(decoded.logits_before, order, batch.gains)
            loss = (1 - deep) * loss + deep * before
        return loss

    @torch.no_grad()
    def logged_order(self, batch: Batch, encoded: Encoded) -> Tensor:
        """Draw slates int64 [B, K] along which the likes are learned; -1 past the end of a list.

        Half begin with the likes in random order, as good slates do, mostly by falling grade. Half
        are drawn from the generator's first choice, as its slates are, so that late positions are
        learned after realistic beginnings.
        """
        length = self.config.slate_length
        uniform = torch.rand_like(batch.labels).clamp(1e-9, 1 - 1e-7)
        noise = -torch.log(-torch.log(uniform))
        sampled = self.generator.begin(encoded).logits + noise
        even = torch.arange(len(noise), device=noise.device) % 2 == 0
        score = torch.where(even.unsqueeze(1), 10.0 * batch.labels + noise, sampled)
        order = score.masked_fill(~batch.mask, -math.inf).argsort(dim=1, descending=True)
        order = order[:, :length]
        order = order.masked_fill(~batch.mask.gather(1, order), -1)
        return functional.pad(order, (0, length - order.shape[1]), value=-1)


def evaluator_loss(evaluator: Evaluator, batch: Batch, slate_length: int) -> Tensor:
    """Return the BCE per position, over whole shown lists and over their first K items; a scalar.

    The first K items train the evaluator on lists as long as a slate. The losses of all ranks add
    up.
    """
    embedded = evaluator.embed(batch.numbers, batch.tokens)
    loss = torch.zeros((), device=batch.mask.device)
    for length in (batch.mask.shape[1], slate_length):
        mask = batch.mask[:, :length]
        logits = evaluator(embedded[:, :length], mask)
        losses = functional.binary_cross_entropy_with_logits(
            logits, batch.targets[:, :length], reduction="none"
        )
        loss = loss + 0.5 * (losses * mask).sum() / all_reduce(mask.sum())
    return loss


def pointer_loss(logits: Tensor, order: Tensor, gains: Tensor) -> Tensor:
    """Return the mean cross-entropy against the gains not yet in the slate, discounted; a scalar.

    logits [B, K, N], order int64 [B, K] the slate that was followed, gains [B, N]; each position's
    target is proportional to the gains that are left. The mean is over the batches of all ranks,
    whose losses add up to it.
    """
    chosen = functional.one_hot(order.clamp(min=0), gains.shape[1]) * (order >= 0).unsqueeze(2)
    before = chosen.cumsum(dim=1) - chosen
    left = gains.unsqueeze(1) * (before == 0)
    total = left.sum(dim=2)
    loss = -(torch.log_softmax(logits, dim=2) * left).sum(dim=2) / total.clamp(min=1e-9)
    weight = discount(order.shape[1], order.device) * ((total > 0) & (order >= 0))
    return (loss * weight).sum() / all_reduce(weight.sum()).clamp(min=1e-9)


def descend(optimizer: torch.optim.Optimizer, module: nn.Module, loss: Tensor) -> None:
    """Make one clipped gradient step, the same on all ranks; their losses add up."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    all_reduce_gradients(module)
    clip_gradients(module, 1.0)
    optimizer.step()
