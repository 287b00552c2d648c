"""From a decoded slate to the entries of an answer, with what explains them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.session import Row, Slate

ALTERNATIVES = 3
FREE = -1e8  # logits of what could still be chosen are above it


def entries_of(ids: Sequence[str], slate: Slate, row: Row) -> list[dict[str, Any]]:
    """The positions of a slate as they are answered; a pinned one is no choice of the model."""
    entries = []
    told = np.array([slate.logprob, slate.entropy_before, slate.entropy_after], np.float64)
    columns = (slate.indices, *told.round(6), slate.steps, row.rules.pinned)
    for position, (index, logprob, before, after, steps, pinned) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        chosen = pinned < 0
        entry = {
            "id": ids[index],
            "position": position,
            "initial_position": index,
            "logprob": logprob if chosen else None,
            "entropy": before if chosen else None,
            "entropy_after": after if chosen else None,
            "reasoning_steps": steps,
        }
        if slate.logits is not None:
            entry["explanation"] = {
                "probability": round(math.exp(logprob), 6) if chosen else None,
                "alternatives": alternatives(ids, slate.logits[position], index, row)
                if chosen
                else [],
                "moved": index - position,
            }
        entries.append(entry)
    return entries


def alternatives(
    ids: Sequence[str], logits: np.ndarray[Any, Any], chosen: int, row: Row
) -> list[dict[str, Any]]:
    """The items nearest to the chosen one among those still free, by their softmax."""
    scaled = logits.astype(np.float64) / row.recommend_temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = [
        i for i in np.argsort(-logits, kind="stable")[: ALTERNATIVES + 1].tolist() if i != chosen
    ]
    return [
        {"id": ids[i], "probability": round(float(weights[i]), 6)}
        for i in order[:ALTERNATIVES]
        if logits[i] > FREE
    ]
