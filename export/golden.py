"""Pick the golden requests that a service replays when it loads a bundle."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from export.cases import Requests
from export.verify import VerificationError, decode_torch, margin
from model.learning.checkpoint import Trained
from service.engine import constraints
from service.engine.rows import Row

# Golden requests must decode alike on any machine: no choice or gate of theirs is this close.
GOLDEN_MARGIN = 1e-3


def clear_of_ties(trained: Trained, row: Row) -> bool:
    """Whether rounding can change no choice and no gate of this list, at any budget."""
    for budget in range(row.budget + 1):
        capped = dataclasses.replace(row, budget=budget)
        margins = margin(decode_torch(trained, [capped]), 0, capped)
        if margins[: len(row.numbers) - 1].min(initial=1e9) < GOLDEN_MARGIN:
            return False
    return True


def golden(trained: Trained, requests: Requests, count: int = 8) -> list[dict[str, Any]]:
    """Requests with slates that no rounding can change, for replay at every load."""
    draw = np.random.default_rng(2601)
    entries: list[dict[str, Any]] = []
    for _ in range(100 * count):
        size = int(draw.integers(1, min(60, trained.config.max_candidates) + 1))
        request = requests.draw(size, draw)
        numbers, tokens = trained.featuriser.transform(request)
        longest = min(size, trained.config.slate_length)
        reasoning = trained.config.reasoning
        row = Row(
            numbers, tokens, longest, reasoning.budget, trained.threshold,
            reasoning.reason_temperature, reasoning.recommend_temperature,
            constraints.SlateConstraints.none(size, longest),
        )  # fmt: skip
        if not clear_of_ties(trained, row):
            continue
        decoded = decode_torch(trained, [row])
        slate = decoded.slate[0, :longest].tolist()
        steps = decoded.steps[0, :longest].tolist()
        entries.append(
            {"request": request.to_json(), "slate": [request.ids[i] for i in slate], "steps": steps}
        )
        if len(entries) == count:
            return entries
    raise VerificationError(f"only {len(entries)} of {count} golden requests are clear of ties")
