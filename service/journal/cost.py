"""Estimate the cost of exploration: the evaluator's utility of explored slates and greedy ones."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.contract import Floats
from service.engine.rows import Row, SlateSampling
from service.engine.session import Session
from service.journal.records import DecisionRecord
from service.journal.replay import replay_row

BATCH = 16  # rows of a run


class NoNoise(SlateSampling):
    """Samples the greedy slate, so that the evaluator estimates its utility."""

    def noise(self, positions: int, size: int) -> Floats:
        return np.zeros((self.slates, positions, size), np.float32)


@dataclass(frozen=True)
class ExplorationCost:
    """Mean utility of the lists that were explored, and of their greedy slates.

    error: standard error of the mean difference, over users; None for a single user. skipped:
    explored lists of other bundles.
    """

    lists: int
    users: int
    explored: float
    greedy: float
    error: float | None
    skipped: int

    def __str__(self) -> str:
        cost = self.greedy - self.explored
        text = (
            f"{self.lists} explored lists of {self.users} users: utility {self.explored:.4f}, "
            f"{self.greedy:.4f} if they were greedy; exploration costs {cost:.4f} a list"
        )
        if self.greedy:
            text += f" ({cost / self.greedy:.1%})"
        if self.error is not None:
            low, high = cost - 1.96 * self.error, cost + 1.96 * self.error
            text += f", 95 % interval {low:.4f} to {high:.4f}"
        return f"{text}; {self.skipped} lists of other bundles" if self.skipped else text


def estimate_cost(records: Iterable[DecisionRecord], session: Session) -> ExplorationCost | None:
    """Compare explored slates with those that greedy decoding gives on the same lists.

    A list of an anonymous user counts as that of another user. Returns None without any.
    """
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    skipped = 0
    explored = []
    for record in records:
        if record.policy.kind != "explore" or record.utility is None:
            continue
        if record.bundle.digest == session.digest:
            explored.append(record)
        else:
            skipped += 1
    for record, greedy in zip(explored, _greedy_utilities(explored, session), strict=True):
        assert record.utility is not None
        user = f"request {record.record}" if record.user is None else f"user {record.user}"
        pairs[user].append((record.utility, greedy))
    if not explored:
        return None
    count = len(explored)
    sampled, certain = np.array([pair for of_user in pairs.values() for pair in of_user]).mean(0)
    mean = certain - sampled
    spread = sum(
        sum(greedy - utility - mean for utility, greedy in of_user) ** 2
        for of_user in pairs.values()
    )
    error = math.sqrt(spread) / count if len(pairs) > 1 else None
    return ExplorationCost(count, len(pairs), float(sampled), float(certain), error, skipped)


def _greedy_utilities(records: Sequence[DecisionRecord], session: Session) -> Iterator[float]:
    for start in range(0, len(records), BATCH):
        rows = [_greedy_row(record, session) for record in records[start : start + BATCH]]
        for slate in session.run(rows):
            assert slate.utility is not None
            yield slate.utility


def _greedy_row(record: DecisionRecord, session: Session) -> Row:
    """Return the row of an explored list as it would have been, without a bound of exploration."""
    row = replay_row(record, session)
    return dataclasses.replace(row, sampling=NoNoise(1, 0))
