"""The reasoning loop: the only place where slates are decoded in torch.

Before each position the loop looks at the entropy of the choice; while it exceeds the threshold and
budget is left, the row reads one reasoning token and chooses anew (P, arXiv 2601.13533). The gate
is per row. `export` unrolls exactly these steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from model.generator import Choice, Encoded, Generator

# (position, logits [B, N] at temperature 1) -> item [B]
Pick = Callable[[int, Tensor], Tensor]


class Decoded(NamedTuple):
    """A batch of slates of K positions; entries past the end of a short list are -1 or 0."""

    slate: Tensor  # int64 [B, K] candidate indices
    logprob: Tensor  # [B, K] of the choice, at the recommending temperature
    entropy_before: Tensor  # [B, K] nats, before any reasoning
    entropy_after: Tensor  # [B, K] nats, when the item was chosen
    steps: Tensor  # int64 [B, K]
    gates: Tensor  # bool [B, K, S], which reasoning steps each row took
    logits: Tensor  # [B, K, N] of the choices made, at temperature 1


def gate(choice: Choice, threshold: Tensor, budget: Tensor, step: Tensor) -> Tensor:
    """Which rows [B] take reasoning step `step`: uncertain, budget left, something to choose."""
    uncertain = choice.entropy > threshold
    return uncertain & (budget > step) & choice.available.any(dim=1)


def reason_where(
    generator: Generator, encoded: Encoded, choice: Choice, step: Tensor, active: Tensor
) -> Choice:
    """One reasoning step for the rows active [B]; the others keep their choice bit for bit."""
    reasoned = generator.reason(encoded, choice, step, active)
    return Choice(
        choice.available,
        torch.where(active.unsqueeze(1), reasoned.logits, choice.logits),
        torch.where(active, reasoned.entropy, choice.entropy),
        reasoned.state,
    )


def chosen_logprob(logits: Tensor, item: Tensor, temperature: float) -> Tensor:
    """Log-probability [B] of item [B] under logits [B, N] at the recommending temperature."""
    logprob = torch.log_softmax(logits / temperature, dim=-1)
    return logprob.gather(1, item.unsqueeze(1)).squeeze(1)


def decode(
    generator: Generator,
    encoded: Encoded,
    slate_length: int,
    pick: Pick,
    recommend_temperature: float,
    threshold: Tensor,
    budget: Tensor,
    replay: Tensor | None = None,
) -> Decoded:
    """Compose slates position by position.

    threshold float [R] (nats), budget int64 [R]: R = B * G rows make G slates for each of the B
    requests, those of a request side by side. replay bool [R, K, S], when given, decides the
    gates instead, so that a stored sample can be scored again under new weights. A step that no
    row takes is skipped whole: with budget 0 this is the plain host, operation for operation.
    """
    device = encoded.mask.device
    most = int(budget.max()) if replay is None else replay.shape[2]
    choice = generator.begin(encoded, threshold.shape[0] // encoded.mask.shape[0])
    columns: list[tuple[Tensor, ...]] = []
    for position in range(slate_length):
        before = choice.entropy
        gates = []
        active = torch.ones_like(choice.available[:, 0])
        for step in range(most):
            number = torch.tensor(step, device=device)
            if replay is None:
                active = active & gate(choice, threshold, budget, number)
            else:
                active = replay[:, position, step]
            gates.append(active)
            if active.any():
                choice = reason_where(generator, encoded, choice, number, active)
        alive = choice.available.any(dim=1)
        item = pick(position, choice.logits)
        logprob = chosen_logprob(choice.logits, item, recommend_temperature)
        zero = torch.zeros_like(before)
        taken = torch.stack(gates, dim=1) if gates else choice.available[:, :0]
        columns.append(
            (
                torch.where(alive, item, -torch.ones_like(item)),
                torch.where(alive, logprob, zero),
                torch.where(alive, before, zero),
                torch.where(alive, choice.entropy, zero),
                taken.sum(dim=1),
                taken,
                choice.logits,
            )
        )
        if position + 1 < slate_length:
            choice = generator.recommend(
                encoded, choice, item, torch.tensor(position, device=device)
            )
    return Decoded(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))


def greedy(_position: int, logits: Tensor) -> Tensor:
    """The most likely item; what the service does."""
    return logits.argmax(dim=-1)


def sampler(temperature: float, generator: torch.Generator | None = None) -> Pick:
    """Draw an item at the recommending temperature."""

    def pick(_position: int, logits: Tensor) -> Tensor:
        probabilities = torch.softmax(logits / temperature, dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    return pick


def follow(slate: Tensor) -> Pick:
    """The items of a given slate int64 [B, K]; past its end (-1) candidate 0, never counted."""
    return lambda position, _logits: slate[:, position].clamp(min=0)
