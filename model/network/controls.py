"""Control gates: baselines that choose the reasoning steps without looking at the entropy.

All but `always` spend as many steps as the entropy gate, rounded to whole positions: `share` is the
part of the K x S steps that the entropy gate takes, measured on the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.network.generator import Choice
from model.network.reasoning import Gate


class PlannedGate:
    """Take plan[k] steps before position k, in every row."""

    def __init__(self, plan: Sequence[int]) -> None:
        self.plan, self.max_steps = plan, max(plan)

    def __call__(self, position: int, step: int, choice: Choice) -> Tensor:
        return torch.full_like(choice.entropy, step < self.plan[position], dtype=torch.bool)


class RandomGate:
    """Take all S steps before a position, or none, by a coin toss per row and position."""

    def __init__(self, share: float, budget: int, generator: torch.Generator | None = None) -> None:
        self.share, self.max_steps, self.generator = share, budget, generator

    def __call__(self, _position: int, step: int, choice: Choice) -> Tensor:
        if step:  # a row that took the first step takes the others
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
    """Build a control gate: always, random, middle (of the slate) or first (before position 0)."""
    if name == "random":
        return RandomGate(share, budget, generator)
    return PlannedGate(planned_steps(name, slate_length, budget, share))


def planned_steps(name: str, slate_length: int, budget: int, share: float) -> list[int]:
    """Return the steps before each position, int [K]."""
    if name == "always":
        return [budget] * slate_length
    if name == "first":
        return [round(share * slate_length * budget)] + [0] * (slate_length - 1)
    by_distance = sorted(range(slate_length), key=lambda k: abs(k - (slate_length - 1) / 2))
    chosen = by_distance[: round(share * slate_length)]
    return [budget * (k in chosen) for k in range(slate_length)]
