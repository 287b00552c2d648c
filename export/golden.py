"""Pick the golden requests that a service replays when it loads a bundle."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from export.cases import RequestSampler, row_of
from export.verify import UNDISPUTED, VerificationError, decode_torch, margins
from model.learning.checkpoint import Trained
from service.engine.rows import Row

# Golden requests must decode alike on any machine: none has a choice or gate closer than this.
GOLDEN_MARGIN = 1e-3
TRIES = 100  # requests drawn for each golden one
# User id of golden requests. A bundle outlives the deletion of a user, so none is of the data.
GOLDEN_USER = "user"


def is_clear_of_ties(trained: Trained, row: Row) -> bool:
    """Return true if rounding can change no choice and no gate of this list, at any budget."""
    for budget in range(row.budget + 1):
        capped = dataclasses.replace(row, budget=budget)
        nearest = margins(decode_torch(trained, [capped]), 0, capped)
        if nearest[: len(row.numbers) - 1].min(initial=UNDISPUTED) < GOLDEN_MARGIN:
            return False
    return True


def golden(trained: Trained, requests: RequestSampler, count: int = 8) -> list[dict[str, Any]]:
    """Return requests with their slates and steps, none of which rounding can change.

    Raises VerificationError if too few of the requests drawn are clear of ties.
    """
    draw = np.random.default_rng(2601)
    entries: list[dict[str, Any]] = []
    for _ in range(TRIES * count):
        size = int(draw.integers(1, min(60, trained.config.max_candidates) + 1))
        candidates = requests.draw(size, draw).with_values(user_id=GOLDEN_USER)
        row = row_of(trained, candidates, trained.config.reasoning.budget, trained.threshold)
        if not is_clear_of_ties(trained, row):
            continue
        decoded = decode_torch(trained, [row])
        slate = decoded.slate[0, : row.slate_size].tolist()
        steps = decoded.steps[0, : row.slate_size].tolist()
        ids = [candidates.ids[i] for i in slate]
        entries.append({"request": candidates.to_json(), "slate": ids, "steps": steps})
        if len(entries) == count:
            return entries
    raise VerificationError(
        f"golden requests: {len(entries)} of {TRIES * count} drawn are clear of ties, "
        f"{count} are needed"
    )
