"""What a caller may ask of a slate: pinned positions, blocked ids, at most c items of a group.

Everything is checked before the run, so that what is admitted can be met: at most one attribute
is limited at a time, so the items that may be chosen form a partition matroid, in which choosing
one after the other never runs into a dead end; with two attributes it could.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.contract import Floats, Integers


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
        """Every candidate may be chosen, once."""
        pinned = np.full(slate_size, -1, np.int64)
        return cls(pinned, np.arange(size, dtype=np.int64), np.ones(size, np.float32))

    def violation(self, slate: Sequence[int]) -> str | None:
        """What the slate of candidate indices breaks, or None."""
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
                most = self.quota[self.group == group].max()
                if count > most:
                    return f"{count} candidates of one group, at most {most:g}"
        return None

    def initial_ranking(self, slate_size: int) -> list[int]:
        """Candidate indices of a slate in the order of the initial ranking that meets the rules."""
        quota, chosen, slate = self.quota.copy(), set(self.pinned.tolist()), list[int]()
        for position in range(slate_size):
            item = int(self.pinned[position])
            if item < 0:
                item = next(i for i, q in enumerate(quota.tolist()) if q > 0 and i not in chosen)
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
    """The slate's size and rules; without a size asked for, the most positions that can be filled.

    longest: the lesser of candidates and the bundle's slate length. blocked ids that are no
    candidate are met already. groups: each candidate's value of the limited attribute, None for
    a group of its own; limit: that attribute's name and the most items of one value. Raises
    ConstraintError naming what cannot be met.
    """
    index = {item: i for i, item in enumerate(ids)}
    at: dict[int, int] = {}
    for item, position in pinned.items():
        path = f"constraints.pinned.{item}"
        if item not in index:
            raise ConstraintError(path, "the id of a candidate", item)
        if item in blocked:
            raise ConstraintError(path, "not blocked as well", item)
        most = longest if slate_size is None else slate_size
        if position >= most:
            raise ConstraintError(path, f"a position below {most}", position)
        if position in at:
            rule = f"one item per position, {ids[at[position]]!r} is pinned there"
            raise ConstraintError(path, rule, position)
        at[position] = index[item]
    open_ = [i for i, item in enumerate(ids) if item not in blocked and item not in pinned]
    group = np.arange(len(ids), dtype=np.int64)
    quota = np.zeros(len(ids), np.float32)
    quota[open_] = 1.0
    fill = len(open_)
    if limit is not None and groups is not None:
        name, cap = limit[0], min(limit[1], len(ids))
        numbers: dict[Any, int] = {}
        for i, value in enumerate(groups):
            if value is not None:  # numbers beyond the list's, which are each candidate's own
                group[i] = numbers.setdefault(value, len(ids) + len(numbers))
        held = Counter(int(group[i]) for i in at.values())
        for number, count in held.items():
            if count > cap and number >= len(ids):
                value = next(v for v, n in numbers.items() if n == number)
                rule = f"at most {cap} items of {name} {value!r}, more are pinned"
                raise ConstraintError(f"constraints.max_per_group.{name}", rule, count)
        for i in open_:
            if group[i] >= len(ids):
                quota[i] = max(0, cap - held[int(group[i])])
        members = Counter(int(group[i]) for i in open_)
        fill = sum(min(n, int(quota[group == g].max())) for g, n in members.items())
        # What is pinned is no choice of its group any more: its share is taken off already.
        for candidate in at.values():
            group[candidate], quota[candidate] = candidate, 0.0
    sizes = [slate_size] if slate_size is not None else range(longest, 0, -1)
    least = max(at, default=-1) + 1
    for size in sizes:
        free = size - sum(position < size for position in at)
        if size >= least and free <= fill:
            positions = np.full(size, -1, np.int64)
            for position, candidate in at.items():
                positions[position] = candidate
            return size, SlateConstraints(positions, group, quota)
    wanted = slate_size if slate_size is not None else max(least, 1)
    rule = f"at least {wanted - len(at)} candidates for the free positions, {fill} may be chosen"
    raise ConstraintError("constraints", rule, {"slate_size": wanted, "candidates": len(ids)})
