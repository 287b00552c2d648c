"""The objective of a configuration: the value of slates, and the gains of their next items.

A slate's value is the weighted sum of the reward model's utility and of the terms of
model.learning.list_terms. Terms read the probability that a candidate alone is liked, which is the
utility of a slate of that candidate. Labels play no part, so that held-out lists can be valued like
train lists, and so that training does not follow the noise of single labels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.learning.list_terms import Attribute, ListTerm, build_term
from model.learning.policy import Batch
from model.network.config import Config
from model.network.evaluator import RewardModel, discount
from service.engine.features.featuriser import Featuriser


class Prefix(NamedTuple):
    """G prefixes of slates for each of B lists."""

    slate: Tensor  # int64 [B, G, K], -1 where empty
    states: tuple[Tensor, ...]  # of the terms, each [B, G, ...]

    def select(self, index: Tensor) -> Prefix:
        """Return the prefixes number `index` int64 [B, X] of each list, [B, X, ...]."""
        row = torch.arange(len(index), device=index.device).unsqueeze(1)
        return Prefix(self.slate[row, index], tuple(state[row, index] for state in self.states))


class Objective:
    """The `objectives` of a configuration over a schema and a frozen reward model.

    Raises ConfigError for a term that the schema does not fit.
    """

    def __init__(self, config: Config, featuriser: Featuriser, reward_model: RewardModel) -> None:
        assert config.objectives is not None
        self.settings, self.reward_model = config.objectives, reward_model
        length = config.slate_length
        self.position_weight = (
            discount(length) if config.utility == "discounted" else torch.ones(length)
        )
        self.attributes = [
            Attribute(f"objectives.terms.{number}", term, featuriser)
            for number, term in enumerate(self.settings.terms)
        ]

    @torch.no_grad()
    def of(self, batch: Batch) -> ListObjective:
        """Compute the objective of the lists of a batch."""
        return ListObjective(self, batch)


class ListObjective:
    """The objective on B lists."""

    def __init__(self, objective: Objective, batch: Batch) -> None:
        self.weight, self.reward_model = objective.settings.utility, objective.reward_model
        device = batch.mask.device
        self.mask = batch.mask
        position_weight = objective.position_weight.to(device)
        self.length = len(position_weight)
        self.embedded = self.reward_model.embed(batch.numbers, batch.tokens)
        places = torch.arange(self.length, device=device)
        self.filled = places < batch.mask.sum(dim=1, keepdim=True)  # [B, K]
        total = (position_weight * self.filled).sum(dim=1, keepdim=True)
        # Share of a full slate's weight that its first k positions have, [B, K + 1].
        self.progress = torch.cat([torch.zeros_like(total), position_weight.cumsum(0) / total], 1)
        probability = self.probability()
        self.terms: list[tuple[float, ListTerm]] = [
            (term.weight, build_term(term, attribute, batch, probability, self.filled))
            for term, attribute in zip(objective.settings.terms, objective.attributes, strict=True)
        ]

    @torch.no_grad()
    def probability(self) -> Tensor:
        """Return the utility of each candidate alone, float [B, N], 0 where padded."""
        size = self.mask.shape[1]
        alone = torch.arange(size, device=self.mask.device).view(1, size, 1)
        return self._utility(alone.expand(len(self.mask), -1, -1)) * self.mask

    def start(self, group: int = 1) -> Prefix:
        """Return `group` empty slates for each list."""
        shape = len(self.mask), group, self.length
        empty = torch.full(shape, -1, dtype=torch.int64, device=self.mask.device)
        return Prefix(empty, tuple(term.start(group) for _, term in self.terms))

    @torch.no_grad()
    def gains(self, prefix: Prefix, position: int) -> Tensor:
        """Return what each candidate adds to the value at a position, float [B, G, N].

        Gains of candidates that are padded or stand in the prefix have no meaning.
        """
        lists, group, _ = prefix.slate.shape
        total = torch.zeros(lists, group, self.mask.shape[1], device=self.mask.device)
        for (weight, term), state in zip(self.terms, prefix.states, strict=True):
            total = total + weight * term.gains(state, position)
        if self.weight:
            total = total + self.weight * self._utility_gains(prefix.slate[:, :, :position])
        return total

    def extend(self, prefix: Prefix, item: Tensor, position: int) -> Prefix:
        """Put item int64 [B, G] at a position; -1 puts nothing."""
        slate = prefix.slate.clone()
        slate[:, :, position] = item
        states = zip(self.terms, prefix.states, strict=True)
        return Prefix(slate, tuple(term.add(state, item) for (_, term), state in states))

    def available(self, prefix: Prefix) -> Tensor:
        """Return true for candidates that are neither padded nor in the prefix, bool [B, G, N]."""
        taken = torch.zeros(
            *prefix.slate.shape[:2], self.mask.shape[1] + 1,
            dtype=torch.bool, device=self.mask.device,
        )  # fmt: skip
        taken.scatter_(2, prefix.slate.remainder(self.mask.shape[1] + 1), True)  # -1: the last
        return self.mask.unsqueeze(1) & ~taken[:, :, :-1]

    @torch.no_grad()
    def value(self, slates: Tensor) -> Tensor:
        """Return the value float [B, G] of slates int64 [B, G, K], -1 past the end of a list."""
        total = torch.zeros(slates.shape[:2], device=slates.device)
        for weight, term in self.terms:
            state = term.start(slates.shape[1])
            for position in range(slates.shape[2]):
                item = slates[:, :, position]
                gain = term.gains(state, position).gather(2, item.clamp(min=0).unsqueeze(2))
                total = total + weight * gain.squeeze(2) * (item >= 0)
                state = term.add(state, item)
        if self.weight:
            done = self.progress.gather(1, (slates >= 0).sum(dim=2))
            total = total + self.weight * done * self._utility(slates)
        return total

    @torch.no_grad()
    def gains_along(self, slates: Tensor) -> Tensor:
        """Return the gains before each position of slates int64 [B, K], float [B, K, N]."""
        prefix, gains = self.start(), []
        for position in range(self.length):
            gains.append(self.gains(prefix, position).squeeze(1))
            prefix = self.extend(prefix, slates[:, position].unsqueeze(1), position)
        return torch.stack(gains, dim=1)

    def _utility(self, slates: Tensor) -> Tensor:
        """Return the reward model's utility [B, X] of slates int64 [B, X, k]."""
        row = torch.arange(len(slates), device=slates.device).view(-1, 1, 1)
        # Only the items of each slate are copied, not the whole list for each slate.
        items = self.embedded[row, slates.clamp(min=0)].flatten(0, 1)
        places = torch.arange(slates.shape[2], device=slates.device)
        order = torch.where(slates >= 0, places, -1).flatten(0, 1)
        return self.reward_model.utility(items, order).view(slates.shape[:2])

    def _utility_gains(self, before: Tensor) -> Tensor:
        """Return what each candidate adds to the utility, [B, G, N], after items [B, G, k].

        The utility of a prefix counts by the share of a full slate's weight that its positions
        have, so that gains add up to the utility of the slate.
        """
        lists, group, position = before.shape
        size = self.mask.shape[1]
        items = torch.arange(size, device=before.device).view(1, 1, size, 1)
        continued = torch.cat(
            [before.unsqueeze(2).expand(-1, -1, size, -1),
             items.expand(lists, group, -1, -1)], dim=3,
        )  # fmt: skip
        after = self._utility(continued.flatten(1, 2)).view(lists, group, size)
        after = after * self.progress[:, position + 1, None, None]
        if not position:
            return after
        so_far = self._utility(before) * self.progress[:, position, None]
        return after - so_far.unsqueeze(2)
