"""The reasoning loop: the only place where slates are decoded in torch.

Before each position the loop looks at the entropy of the choice; while it exceeds the threshold and
budget is left, the row reads one reasoning token and chooses anew (P, arXiv 2601.13533). The gate
is per row. `export` unrolls exactly these steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.network.generator import Choice, Encoded, Generator

# (position, logits [B, N] at temperature 1) -> item [B]
Pick = Callable[[int, Tensor], Tensor]


class Decoded(NamedTuple):
    """A batch of slates of K positions; entries past the end of a short list are -1 or 0."""

    slate: Tensor  # int64 [B, K] candidate indices
    logprob: Tensor  # [B, K] of the choice, at the recommending temperature
    entropy_before: Tensor  # [B, K] nats, before any reasoning
    entropy_after: Tensor  # [B, K] nats, when the item was chosen
    steps: Tensor  # int64 [B, K]
    reasoned: Tensor  # bool [B, K, S], which reasoning steps each row took
    logits: Tensor  # [B, K, N] of the choices made, at temperature 1
    logits_before: Tensor  # [B, K, N] before any reasoning


class ConstraintTensors(NamedTuple):
    """What the slates of R rows must keep to; the same tensors as the graph's inputs.

    length: int64 [R], positions to fill
    pinned: int64 [R, K], the candidate of a position, -1 where it is free
    group: int64 [R, N]
    quota: float [R, N], how many more of its group a candidate sees chosen before it may not be

    A pinned position is no choice: nothing is reasoned about, log-probability and entropies are 0.
    """

    length: Tensor
    pinned: Tensor
    group: Tensor
    quota: Tensor

    def spend(self, item: Tensor) -> ConstraintTensors:
        """After item [R] was put into the slate."""
        row = item.unsqueeze(1)
        same = self.group == self.group.gather(1, row)
        quota = (self.quota - same.to(self.quota.dtype)).scatter(1, row, -1.0)
        return self._replace(quota=quota)


class Gate(Protocol):
    """Which rows reason, asked before each step of each position."""

    max_steps: int  # steps at one position

    def __call__(self, position: int, step: int, choice: Choice, /) -> Tensor:
        """bool [R]; a row that did not take the step before takes none, whatever the answer."""


class EntropyGate:
    """The gate of the paper: while the entropy exceeds the threshold and budget is left.

    threshold float [R] in nats, or a share of the entropy of a uniform choice when `normalised`;
    budget int64 [R].
    """

    def __init__(self, threshold: Tensor, budget: Tensor, normalised: bool = False) -> None:
        self.threshold, self.budget, self.normalised = threshold, budget, normalised
        self.max_steps = int(budget.max())

    def __call__(self, _position: int, step: int, choice: Choice) -> Tensor:
        if self.normalised:
            choice = choice._replace(entropy=normalised_entropy(choice))
        number = torch.tensor(step, device=choice.entropy.device)
        return opens(choice, self.threshold, self.budget, number)


class Replay:
    """The gates of a stored sample, bool [R, K, S], so that new weights score the same steps."""

    def __init__(self, reasoned: Tensor) -> None:
        self.reasoned, self.max_steps = reasoned, reasoned.shape[2]

    def __call__(self, position: int, step: int, _choice: Choice) -> Tensor:
        return self.reasoned[:, position, step]


def normalised_entropy(choice: Choice) -> Tensor:
    """Entropy as a share [R] of the most it could be, ln(number available); 0 for one item."""
    maximum = choice.available.sum(dim=1).clamp(min=1).log()
    return torch.where(maximum > 0, choice.entropy / maximum.clamp(min=math.log(2)), maximum)


def opens(choice: Choice, threshold: Tensor, budget: Tensor, step: Tensor) -> Tensor:
    """Which rows [B] take reasoning step `step`: uncertain, budget left, something to choose."""
    uncertain = choice.entropy > threshold
    return uncertain & (budget > step) & choice.available.any(dim=1)


def reason_where(
    generator: Generator,
    encoded: Encoded,
    choice: Choice,
    step: Tensor,
    active: Tensor,
    temperature: Tensor | None = None,
) -> Choice:
    """One reasoning step for the rows active [B]; the others keep their choice bit for bit."""
    reasoned = generator.reason(encoded, choice, step, active, temperature)
    return Choice(
        choice.available,
        torch.where(active.unsqueeze(1), reasoned.logits, choice.logits),
        torch.where(active, reasoned.entropy, choice.entropy),
        reasoned.state,
    )


def chosen_logprob(logits: Tensor, item: Tensor, temperature: float | Tensor) -> Tensor:
    """Log-probability [B] of item [B] under logits [B, N] at the recommending temperature."""
    logprob = torch.log_softmax(logits / temperature, dim=-1)
    return logprob.gather(1, item.unsqueeze(1)).squeeze(1)


def decode(
    generator: Generator,
    encoded: Encoded,
    slate_length: int,
    pick: Pick,
    recommend_temperature: float | Tensor,
    gate: Gate,
    group: int = 1,
    constraints: ConstraintTensors | None = None,
    reason_temperature: Tensor | None = None,
) -> Decoded:
    """Compose slates position by position.

    R = B * group rows make `group` slates for each of the B requests, those of a request side by
    side. Temperatures are scalars or [R, 1]. A step that no row takes is skipped whole: with
    budget 0 this is the plain host, operation for operation. Rules are for one slate per request.
    """
    device = encoded.mask.device
    last_step = generator.reason_step.num_embeddings - 1  # its embedding serves any beyond
    available = constraints.quota > 0 if constraints else None
    choice = generator.begin(encoded, group, available)
    columns: list[tuple[Tensor, ...]] = []
    for position in range(slate_length):
        before, logits_before = choice.entropy, choice.logits
        reasoned = []
        active = choice.available.any(dim=1)
        if constraints:
            inside, pinned = position < constraints.length, constraints.pinned[:, position]
            active = inside & (pinned < 0)
        for step in range(gate.max_steps):
            active = active & gate(position, step, choice)
            reasoned.append(active)
            if active.any():
                number = torch.tensor(min(step, last_step), device=device)
                choice = reason_where(
                    generator, encoded, choice, number, active, reason_temperature
                )
        alive = chosen = choice.available.any(dim=1)
        item = pick(position, choice.logits)
        if constraints:
            alive, chosen = inside, inside & (pinned < 0)
            item = torch.where(pinned < 0, item, pinned)
        logprob = chosen_logprob(choice.logits, item, recommend_temperature)
        zero = torch.zeros_like(before)
        taken = torch.stack(reasoned, dim=1) if reasoned else choice.available[:, :0]
        columns.append(
            (
                torch.where(alive, item, -torch.ones_like(item)),
                torch.where(chosen, logprob, zero),
                torch.where(chosen, before, zero),
                torch.where(chosen, choice.entropy, zero),
                taken.sum(dim=1),
                taken,
                choice.logits,
                logits_before,
            )
        )
        if position + 1 < slate_length:
            if constraints:
                constraints = constraints.spend(item)
                available = constraints.quota > 0
            number = torch.tensor(position, device=device)
            choice = generator.recommend(encoded, choice, item, number, available)
    return Decoded(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))


def greedy(_position: int, logits: Tensor) -> Tensor:
    """The most likely item; what the service does."""
    return logits.argmax(dim=-1)


def noisy_argmax(noise: Tensor, temperature: float | Tensor) -> Pick:
    """The highest log-probability plus noise [R, K, N]: zeros are greedy, Gumbel noise samples."""

    def pick(position: int, logits: Tensor) -> Tensor:
        logprob = torch.log_softmax(logits / temperature, dim=-1)
        return (logprob + noise[:, position]).argmax(dim=-1)

    return pick


def sampler(temperature: float, generator: torch.Generator | None = None) -> Pick:
    """Draw an item at the recommending temperature."""

    def pick(_position: int, logits: Tensor) -> Tensor:
        probabilities = torch.softmax(logits / temperature, dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    return pick


def follow(slate: Tensor) -> Pick:
    """The items of a given slate int64 [B, K]; past its end (-1) candidate 0, never counted."""
    return lambda position, _logits: slate[:, position].clamp(min=0)
