"""Render the reasoning states of a slate into the explanations of its positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.steps import StepTrace
from service.ranking.decision import Decision


def add_steps(entries: Sequence[dict[str, Any]], decision: Decision) -> None:
    """Add `steps` to the explanation of every position; null without a trace."""
    trace, pinned = decision.trace, decision.row.constraints.pinned.tolist()
    for position, entry in enumerate(entries):
        steps: list[dict[str, Any]] | None = None
        if trace is not None:
            taken = entry["reasoning_steps"]
            states = range(0 if pinned[position] >= 0 else taken + 1)
            steps = [state(decision.ids, trace, position, at, taken) for at in states]
        entry["explanation"]["steps"] = steps


def state(
    ids: Sequence[str], trace: StepTrace, position: int, at: int, taken: int
) -> dict[str, Any]:
    """Render one state: the one after `at` of the steps taken at a position."""
    choice = int(trace.choice[position, at])
    logprob = trace.logprob[position, at]
    figures = zip(
        trace.leading[position, at].tolist(),
        np.exp(logprob).round(6).tolist(),
        logprob.round(6).tolist(),
        trace.weight[position, at].round(6).tolist(),
        strict=True,
    )
    return {
        "entropy": round(float(trace.entropy[position, at]), 6),
        "choice": ids[choice],
        "changed": at > 0 and choice != int(trace.choice[position, at - 1]),
        "choices": [
            {
                "id": ids[index],
                "probability": probability,
                "logprob": of_choice,
                "weight": weight if at < taken else None,
            }
            for index, probability, of_choice, weight in figures
            if index >= 0
        ],
    }
