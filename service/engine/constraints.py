"""Constraints of a slate: pinned positions, blocked ids, at most c items of a group.

Every constraint is checked before the run, so that the run can always meet what is admitted. At
most one attribute is limited at a time: the candidates that may be chosen then form a partition
matroid, in which choosing one after the other never meets a dead end; with two attributes it could.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.contract import Floats, Integers
from service.engine.intent import SlateIntent


class ConstraintError(ValueError):
    """Constraints that cannot be met: `path` below the request, `rule`, `value`."""

    def __init__(self, path: str, rule: str, value: object) -> None:
        super().__init__(f"{path}: {rule}, got {value!r}")
        self.path, self.rule, self.value = path, rule, value


@dataclass(frozen=True)
class SlateConstraints:
    """The constraints of one slate as the graph reads them (service.engine.contract).

    pinned int64 [k]: candidate index of each position, -1 where it is free; group int64 [N];
    quota float32 [N].
    """

    pinned: Integers
    group: Integers
    quota: Floats

    @classmethod
    def none(cls, size: int, slate_size: int) -> SlateConstraints:
        """Return constraints that let every candidate of a list of `size` be chosen once."""
        pinned = np.full(slate_size, -1, np.int64)
        return cls(pinned, np.arange(size, dtype=np.int64), np.ones(size, np.float32))

    def violation(self, slate: Sequence[int]) -> str | None:
        """Describe a constraint that a slate of candidate indices breaks, or return None."""
        free = []
        for position, (item, pinned) in enumerate(zip(slate, self.pinned.tolist(), strict=False)):
            if pinned < 0:
                free.append(item)
            elif item != pinned:
                return f"position {position} holds candidate {item}, {pinned} is pinned there"
        for item, quota in zip(free, self.quota[free].tolist(), strict=True):
            if quota <= 0:
                return f"candidate {item} may not be chosen"
        groups = self.group[free].tolist()
        if len(set(groups)) == len(groups):
            return None  # one is within any quota above 0
        for group, count in Counter(groups).items():
            if count > 1:
                quota = self.quota[self.group == group].max()
                if count > quota:
                    return f"{count} candidates of one group, at most {quota:g}"
        return None

    def initial_ranking(self, slate_size: int, intent: SlateIntent | None = None) -> list[int]:
        """Return candidate indices in initial-ranking order, as far as the constraints allow.

        With an intent each position gets the candidate of the highest -ln(1 + initial rank) plus
        adjustment: the discount of the rank stands for the logits that are missing.
        """
        quota, chosen, slate = self.quota.copy(), set(self.pinned.tolist()), list[int]()
        order: Sequence[int] = range(len(quota))
        ranks = -np.log1p(np.arange(len(quota)))
        for position in range(slate_size):
            item = int(self.pinned[position])
            if item < 0:
                if intent is not None:
                    scores = ranks + intent.boosts() + intent.diversity(slate)[-1]
                    order = np.argsort(-scores, kind="stable").tolist()
                item = next(i for i in order if quota[i] > 0 and i not in chosen)
            chosen.add(item)
            quota[self.group == self.group[item]] -= 1
            slate.append(item)
        return slate


def resolve(
    ids: Sequence[str],
    slate_size: int | None,
    longest: int,
    pinned: Mapping[str, int],
    blocked: Collection[str],
    groups: Sequence[Any] | None,
    limit: tuple[str, int] | None,
) -> tuple[int, SlateConstraints]:
    """Return the size of the slate and its constraints.

    Args:
        ids: candidate ids.
        slate_size: positions to fill; None for as many as the constraints let be filled.
        longest: the lesser of the number of candidates and the bundle's slate length.
        pinned: position of each pinned id.
        blocked: ids that may not be chosen; an id that is no candidate is ignored.
        groups: each candidate's value of the limited attribute, None for a group of its own.
        limit: name of the limited attribute and the maximum number of items of one value.

    Raises:
        ConstraintError: names the constraint that cannot be met.
    """
    candidate_at = _pinned_candidates(
        ids, longest if slate_size is None else slate_size, pinned, blocked
    )
    group, quota, available = _selectable(ids, candidate_at, blocked, groups, limit)
    size = _fitting_size(slate_size, longest, candidate_at, available)
    if size is None:
        raise _shortage(ids, slate_size, longest, candidate_at, blocked, groups, limit)
    pins = np.full(size, -1, np.int64)
    for position, candidate in candidate_at.items():
        pins[position] = candidate
    return size, SlateConstraints(pins, group, quota)


def _selectable(
    ids: Sequence[str],
    candidate_at: Mapping[int, int],
    blocked: Collection[str],
    groups: Sequence[Any] | None,
    limit: tuple[str, int] | None,
) -> tuple[Integers, Floats, int]:
    """Return group int64 [N], quota float32 [N], and how many free candidates may be chosen."""
    pinned = set(candidate_at.values())
    free = [i for i, item in enumerate(ids) if item not in blocked and i not in pinned]
    group = np.arange(len(ids), dtype=np.int64)
    quota = np.zeros(len(ids), np.float32)
    quota[free] = 1.0
    available = len(free)
    if limit is not None and groups is not None:
        available = _limit_groups(group, quota, groups, limit, free, candidate_at.values())
    return group, quota, available


def _fitting_size(
    slate_size: int | None, longest: int, candidate_at: Mapping[int, int], available: int
) -> int | None:
    """Return the largest size of a slate that can be filled, None if there is none."""
    smallest = max(candidate_at, default=-1) + 1
    for size in [slate_size] if slate_size is not None else range(longest, 0, -1):
        open_positions = size - sum(position < size for position in candidate_at)
        if size >= smallest and open_positions <= available:
            return size
    return None


def _shortage(
    ids: Sequence[str],
    slate_size: int | None,
    longest: int,
    candidate_at: Mapping[int, int],
    blocked: Collection[str],
    groups: Sequence[Any] | None,
    limit: tuple[str, int] | None,
) -> ConstraintError:
    """Return the error of constraints that leave too few candidates.

    It names the constraint without which the others can be met, or all of them if that holds for
    none or for several.
    """
    available, unlimited, unblocked = (
        _selectable(ids, candidate_at, *changed)[2]
        for changed in ((blocked, groups, limit), (blocked, None, None), ((), groups, limit))
    )
    size = max(candidate_at, default=0) + 1 if slate_size is None else slate_size
    needed, unpinned = size - len(candidate_at), len(ids) - len(candidate_at)
    rule = f"at least {needed} candidates for the free positions, {available} may be chosen"
    if unlimited < unpinned:
        rule += f"; {unpinned - unlimited} of {unpinned} are blocked"
    if limit is not None and available < unlimited:
        rule += f"; {unlimited - available} of {unlimited} exceed {limit[1]} per {limit[0]}"
    causes: list[tuple[str, object]] = []
    if _fitting_size(slate_size, longest, candidate_at, unblocked) is not None:
        causes.append(("constraints.blocked", [item for item in ids if item in blocked]))
    if limit and _fitting_size(slate_size, longest, candidate_at, unlimited) is not None:
        causes.append((f"constraints.max_per_group.{limit[0]}", limit[1]))
    if len(causes) == 1:
        ((path, value),) = causes
        return ConstraintError(path, rule, value)
    return ConstraintError("constraints", rule, {"slate_size": size, "candidates": len(ids)})


def _pinned_candidates(
    ids: Sequence[str], positions: int, pinned: Mapping[str, int], blocked: Collection[str]
) -> dict[int, int]:
    """Return the candidate index of each pinned position. Raises ConstraintError."""
    index = {item: i for i, item in enumerate(ids)}
    candidate_at: dict[int, int] = {}
    for item, position in pinned.items():
        path = f"constraints.pinned.{item}"
        if item not in index:
            raise ConstraintError(path, "the id of a candidate", item)
        if item in blocked:
            raise ConstraintError(path, "not blocked as well", item)
        if position >= positions:
            raise ConstraintError(path, f"a position below {positions}", position)
        if position in candidate_at:
            rule = f"one item per position, {ids[candidate_at[position]]!r} is pinned there"
            raise ConstraintError(path, rule, position)
        candidate_at[position] = index[item]
    return candidate_at


def _limit_groups(
    group: Integers,
    quota: Floats,
    groups: Sequence[Any],
    limit: tuple[str, int],
    free: Sequence[int],
    pinned: Collection[int],
) -> int:
    """Write groups and quotas of a limited attribute; return how many free candidates fit.

    group int64 [N] and quota float32 [N] are changed in place. Raises ConstraintError if more
    candidates of one value are pinned than the limit allows.
    """
    size = len(group)
    name, cap = limit[0], min(limit[1], size)
    numbers: dict[Any, int] = {}
    for i, value in enumerate(groups):
        if value is not None:  # numbers from N on; those below are each candidate's own group
            group[i] = numbers.setdefault(value, size + len(numbers))
    pinned_counts = Counter(int(group[i]) for i in pinned)
    for number, count in pinned_counts.items():
        if count > cap and number >= size:
            value = next(v for v, n in numbers.items() if n == number)
            rule = f"at most {cap} items of {name} {value!r}, more are pinned"
            raise ConstraintError(f"constraints.max_per_group.{name}", rule, count)
    for i in free:
        if group[i] >= size:
            quota[i] = max(0, cap - pinned_counts[int(group[i])])
    members = Counter(int(group[i]) for i in free)
    available = sum(min(n, int(quota[group == g].max())) for g, n in members.items())
    # A pinned candidate leaves its group: the quota of the others is reduced by it already.
    for candidate in pinned:
        group[candidate], quota[candidate] = candidate, 0.0
    return available
