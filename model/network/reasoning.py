"""The reasoning loop: the only place where slates are decoded in torch.

Before each position the loop computes the entropy of the choice. While it exceeds the threshold and
budget is left, the row reads one reasoning token and chooses anew (arXiv 2601.13533). Each row
decides for itself. `export` unrolls exactly these steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.network.generator import Choice, Encoded, Generator
from model.network.intent import IntentTensors

# (position, logits [R, N] at temperature 1) -> item [R]
Pick = Callable[[int, Tensor], Tensor]


class Decoded(NamedTuple):
    """R slates of K positions; entries past the end of a short list are -1 or 0."""

    slate: Tensor  # int64 [R, K] candidate indices
    logprob: Tensor  # [R, K] of the choice, at the recommending temperature
    entropy_before: Tensor  # [R, K] nats, before any reasoning
    entropy_after: Tensor  # [R, K] nats, when the item was chosen
    steps: Tensor  # int64 [R, K] reasoning steps taken
    reasoned: Tensor  # bool [R, K, S], true where a row took the step
    logits: Tensor  # [R, K, N] when the item was chosen, at temperature 1
    logits_before: Tensor  # [R, K, N] before any reasoning


class ConstraintTensors(NamedTuple):
    """The constraints on the slates of R rows; the same tensors as the graph's inputs.

    length: int64 [R], number of positions to fill
    pinned: int64 [R, K], the candidate of a position, -1 where it is free
    group: int64 [R, N]
    quota: float [R, N], number of items of its group that may still be chosen

    A pinned position is no choice: no step is taken, log-probability and entropies are 0.
    """

    length: Tensor
    pinned: Tensor
    group: Tensor
    quota: Tensor

    def spend(self, item: Tensor) -> ConstraintTensors:
        """Return the constraints after item [R] was put into the slate."""
        row = item.unsqueeze(1)
        same = self.group == self.group.gather(1, row)
        quota = (self.quota - same.to(self.quota.dtype)).scatter(1, row, -1.0)
        return self._replace(quota=quota)


class Gate(Protocol):
    """Decides before each step of each position, for each row, to take the step or not."""

    max_steps: int  # at one position

    def __call__(self, position: int, step: int, choice: Choice, /) -> Tensor:
        """Return bool [R]; a row that did not take the previous step takes none anyway."""


class EntropyGate:
    """The gate of the paper: a row reasons while its entropy exceeds the threshold.

    threshold float [R] in nats, or as a share of the maximum entropy when `normalised`; budget
    int64 [R], the maximum number of steps per position.
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
    """Takes the steps of a stored sample, bool [R, K, S], to score them under new weights."""

    def __init__(self, reasoned: Tensor) -> None:
        self.reasoned, self.max_steps = reasoned, reasoned.shape[2]

    def __call__(self, position: int, step: int, _choice: Choice) -> Tensor:
        return self.reasoned[:, position, step]


def normalised_entropy(choice: Choice) -> Tensor:
    """Return the entropy as a share [R] of its maximum, ln(number available); 0 for one item."""
    maximum = choice.available.sum(dim=1).clamp(min=1).log()
    return torch.where(maximum > 0, choice.entropy / maximum.clamp(min=math.log(2)), maximum)


def opens(choice: Choice, threshold: Tensor, budget: Tensor, step: Tensor) -> Tensor:
    """Return bool [R], true for rows that are uncertain, with budget and a candidate left."""
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
    """Take one reasoning step in the rows active [R]; the others keep their choice bit for bit."""
    reasoned = generator.reason(encoded, choice, step, active, temperature)
    return Choice(
        choice.available,
        torch.where(active.unsqueeze(1), reasoned.logits, choice.logits),
        torch.where(active, reasoned.entropy, choice.entropy),
        reasoned.state,
        choice.adjustment,
    )


def reason_behind_gate(
    generator: Generator,
    encoded: Encoded,
    choice: Choice,
    position: int,
    active: Tensor,
    gate: Gate,
    temperature: Tensor | None,
) -> tuple[Choice, Tensor]:
    """Take the steps of one position in rows active [R] whose gate stays open.

    Returns the choice after them, and bool [R, S], true where a row took the step. A step that no
    row takes is not computed.
    """
    last_step = generator.reason_step.num_embeddings - 1  # its embedding serves later steps too
    taken = []
    for step in range(gate.max_steps):
        active = active & gate(position, step, choice)
        taken.append(active)
        if active.any():
            number = torch.tensor(min(step, last_step), device=active.device)
            choice = reason_where(generator, encoded, choice, number, active, temperature)
    return choice, torch.stack(taken, dim=1) if taken else choice.available[:, :0]


def chosen_logprob(logits: Tensor, item: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the log-probability [R] of item [R] under logits [R, N] at a temperature."""
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
    intent: IntentTensors | None = None,
) -> Decoded:
    """Compose slates position by position.

    R = B * group rows make `group` slates for each of the B requests, those of a request side by
    side. Temperatures are scalars or [R, 1]. A step that no row takes is skipped: with budget 0
    this is the plain host, operation for operation. Constraints need one slate per request. With an
    intent, logits and all that follows from them hold its adjustment.
    """
    device = encoded.mask.device
    available = constraints.quota > 0 if constraints else None
    choice = generator.begin(encoded, group, available, intent.adjustment() if intent else None)
    columns: list[tuple[Tensor, ...]] = []
    for position in range(slate_length):
        before, logits_before = choice.entropy, choice.logits
        active = choice.available.any(dim=1)
        if constraints:
            inside, pinned = position < constraints.length, constraints.pinned[:, position]
            active = inside & (pinned < 0)
        choice, taken = reason_behind_gate(
            generator, encoded, choice, position, active, gate, reason_temperature
        )
        alive = chosen = choice.available.any(dim=1)
        item = pick(position, choice.logits)
        if constraints:
            alive, chosen = inside, inside & (pinned < 0)
            item = torch.where(pinned < 0, item, pinned)
        logprob = chosen_logprob(choice.logits, item, recommend_temperature)
        zero = torch.zeros_like(before)
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
            intent = intent.after(item) if intent else None
            bonus = intent.adjustment() if intent else None
            number = torch.tensor(position, device=device)
            choice = generator.recommend(encoded, choice, item, number, available, bonus)
    return Decoded(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))


def greedy(_position: int, logits: Tensor) -> Tensor:
    """Choose the most likely item, as the service does by default."""
    return logits.argmax(dim=-1)


def noisy_argmax(noise: Tensor, temperature: float | Tensor) -> Pick:
    """Choose by log-probability plus noise [R, K, N]: zeros are greedy, Gumbel noise samples."""

    def pick(position: int, logits: Tensor) -> Tensor:
        logprob = torch.log_softmax(logits / temperature, dim=-1)
        return (logprob + noise[:, position]).argmax(dim=-1)

    return pick


def sampler(temperature: float, generator: torch.Generator | None = None) -> Pick:
    """Draw items at a temperature."""

    def pick(_position: int, logits: Tensor) -> Tensor:
        probabilities = torch.softmax(logits / temperature, dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    return pick


def follow(slate: Tensor) -> Pick:
    """Choose the items of a slate int64 [R, K]; past its end (-1) candidate 0, without effect."""
    return lambda position, _logits: slate[:, position].clamp(min=0)
