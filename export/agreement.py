"""Compare two sessions that should rank alike, slate by slate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from export.verify import LOGPROB_TOLERANCE
from service.engine.rows import Row, Slate
from service.engine.session import Session

MAX_TIES = 0.01  # share of the slates that may differ
FIGURES = ("logprob", "entropy_before", "entropy_after")


class DisagreementError(RuntimeError):
    """Two sessions rank the same lists otherwise."""


@dataclass
class Agreement:
    """Slates that both sessions ranked, how many differ, and the largest difference of figures."""

    slates: int = 0
    sampled: int = 0
    ties: int = 0
    largest_difference: float = 0.0  # of log-probabilities and entropies, nats

    def add(self, names: Sequence[str], row: Row, one: Slate, other: Slate) -> None:
        """Count one pair.

        Args:
            names: of the two sessions, for the message.

        Raises DisagreementError if they differ and no decision was that close.
        """
        self.slates += 1
        self.sampled += row.sampling is not None
        first, second = names
        differ = (one.indices != other.indices) | (one.steps != other.steps)
        if differ.any():
            at = int(np.flatnonzero(differ)[0])
            if not row.sampling and closeness(row, one, at) > LOGPROB_TOLERANCE:
                raise DisagreementError(
                    f"position {at} of a list of {len(row.numbers)}: "
                    f"{one.indices.tolist()} after {one.steps.tolist()} steps on {first}, "
                    f"{other.indices.tolist()} after {other.steps.tolist()} on {second}"
                )
            self.ties += 1
            return
        for figure in FIGURES:
            values = getattr(one, figure), getattr(other, figure)
            differences = np.abs(values[0] - values[1])
            at = int(differences.argmax())  # a NaN counts as the largest
            difference = float(differences[at])
            if not difference <= LOGPROB_TOLERANCE:  # NaN fails too
                raise DisagreementError(
                    f"position {at} of a list of {len(row.numbers)}: {figure} is "
                    f"{values[0][at]:.6f} on {first} and {values[1][at]:.6f} on {second}; may "
                    f"differ by {LOGPROB_TOLERANCE}, got {difference:.2e}"
                )
            self.largest_difference = max(self.largest_difference, difference)


def closeness(row: Row, slate: Slate, position: int) -> float:
    """Return the distance of a position's nearest decision, choice or gate, from the other outcome.

    It is meaningless for a sampled slate, which has noise on its choices.
    """
    assert slate.logits is not None
    top = np.sort(slate.logits[position])[-2:]
    before, after = slate.entropy_before[position], slate.entropy_after[position]
    gates = [abs(float(h) - row.entropy_threshold) for h in (before, after)] if row.budget else []
    return min([float(top[-1] - top[0]) if len(top) > 1 else np.inf, *gates])


def agree(
    sessions: Mapping[str, Session],
    batches: Sequence[Sequence[Row]],
    again: Sequence[Sequence[Row]] | None = None,
) -> Agreement:
    """Rank the same batches by two sessions and compare. Raises DisagreementError.

    Args:
        sessions: two sessions by the name that messages give them.
        batches: explained rows of the first session.
        again: the same lists as rows of the second; by default, it reads the rows of the first.
    """
    agreement, names = Agreement(), list(sessions)
    first, second = sessions.values()
    pairs = zip(batches, batches if again is None else again, strict=True)
    for rows, others in tqdm(pairs, "compare", total=len(batches), disable=None):
        for row, one, other in zip(rows, first.run(rows), second.run(others), strict=True):
            agreement.add(names, row, one, other)
    if agreement.ties > MAX_TIES * agreement.slates:
        raise DisagreementError(
            f"{agreement.ties} of {agreement.slates} slates differ, at most {MAX_TIES:.0%} may"
        )
    return agreement
