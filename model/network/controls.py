"""Gates that reason elsewhere than where the choice is uncertain: what the entropy gate must beat.

All but `always` spend as many steps as the entropy gate does, up to whole positions: `share` is the
part of the K x S steps that it takes, measured on the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.network.generator import Choice
from model.network.reasoning import Gate


class PlannedGate:
    """The same steps for every row: plan[k] of them before position k."""

    def __init__(self, plan: Sequence[int]) -> None:
        self.plan, self.max_steps = plan, max(plan)

    def __call__(self, position: int, step: int, choice: Choice) -> Tensor:
        return torch.full_like(choice.entropy, step < self.plan[position], dtype=torch.bool)


class RandomGate:
    """Each row tosses a coin before each position; heads takes all S steps."""

    def __init__(self, share: float, budget: int, generator: torch.Generator | None = None) -> None:
        self.share, self.max_steps, self.generator = share, budget, generator

    def __call__(self, _position: int, step: int, choice: Choice) -> Tensor:
        if step:  # the row that reasons goes on
            return torch.ones_like(choice.entropy, dtype=torch.bool)
        toss = torch.rand(choice.entropy.shape, generator=self.generator)
        return (toss < self.share).to(choice.entropy.device)


def control_gate(
    name: str,
    slate_length: int,
    budget: int,
    share: float,
    generator: torch.Generator | None = None,
) -> Gate:
    """The gate of a control: always on, at random, in the middle of the slate, or all at first."""
    if name == "random":
        return RandomGate(share, budget, generator)
    return PlannedGate(planned_steps(name, slate_length, budget, share))


def planned_steps(name: str, slate_length: int, budget: int, share: float) -> list[int]:
    """Steps before each position, int [K]."""
    if name == "always":
        return [budget] * slate_length
    if name == "first":
        return [round(share * slate_length * budget)] + [0] * (slate_length - 1)
    inside = sorted(range(slate_length), key=lambda k: abs(k - (slate_length - 1) / 2))
    chosen = inside[: round(share * slate_length)]
    return [budget * (k in chosen) for k in range(slate_length)]
