"""Intent about a slate: diversity and boosts, which are added to the logits of its choices.

At each position the logit of candidate i at temperature 1 gets

    boost_i + sum over attributes a of weight_a * ln f_a(i)

    f_a(i) = sum over the values v of i of u_iv * retained_a ^ (items of the slate so far with v)

u is 1 (law "sum") or 1 / number of values of i (law "mean"). Pinned items count, and a candidate
without values has f = 1. With the law "sum" a candidate of many values is favoured from the first
position on. `FLOOR` is added to f, so that its logarithm is finite; no other f changes in float32.

Axes: K positions, N candidates, A attributes, V values that candidates of the list share, of one
attribute after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np

from service.engine.contract import Floats

FLOOR = 1e-30  # is added to f
# Bound the memory of a run: candidates x values that they share, of a list and of all its slates.
MAX_CELLS = 500_000
MAX_SLATE_CELLS = 8_000_000


class IntentError(ValueError):
    """A diversity term that is refused: its number `term`, `rule` and `value`."""

    def __init__(self, term: int, rule: str, value: object) -> None:
        super().__init__(f"diversity[{term}]: {rule}, got {value!r}")
        self.term, self.rule, self.value = term, rule, value


@dataclass(frozen=True)
class DiversityTerm:
    """Diversity by one attribute: its name, weight (nats), decay in (0, 1), and law of u."""

    name: str
    weight: float
    decay: float
    law: Literal["sum", "mean"]


@dataclass(frozen=True)
class SlateIntent:
    """The intent of one list; A and V may be 0.

    boost float32 [N], or None for zeros; values float32 [N, V]: u of the values that at least two
    candidates share; ends: the end in V of the values of each attribute; alone float32 [A, N]: sum
    of u of the others, 1 for a candidate without values; weight, retained float32 [A]: retained is
    1 - decay.
    """

    boost: Floats | None
    values: Floats
    ends: Sequence[int]
    alone: Floats
    weight: Floats
    retained: Floats

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield the start and the end in V of the values of each attribute."""
        return pairwise((0, *self.ends))

    def boosts(self) -> Floats:
        """Return the boost float32 [N] of each candidate."""
        if self.boost is None:
            return np.zeros(self.alone.shape[1], np.float32)
        return self.boost

    def diversity(self, slate: Sequence[int]) -> Floats:
        """Return the diversity term float32 [K + 1, N] of every candidate's logit, nats.

        Row k is that after the first k items of the slate of K.
        """
        items = np.array(slate, np.int64)
        bonus = np.zeros((len(items) + 1, len(self.values)), np.float32)
        for attribute, (start, end) in enumerate(self.spans()):
            values = self.values[:, start:end]
            kept = np.ones((len(items) + 1, end - start), np.float32)
            factors = np.where(values[items] > 0, self.retained[attribute], np.float32(1))
            np.cumprod(factors, axis=0, out=kept[1:])
            share = kept @ values.T + self.alone[attribute]
            bonus += self.weight[attribute] * np.log(share + np.float32(FLOOR))
        return bonus

    def adjustment(self, slate: Sequence[int]) -> Floats:
        """Return float32 [K, N]: boost and diversity of every candidate before each position."""
        adjustment: Floats = self.boosts() + self.diversity(slate[:-1])[: len(slate)]
        return adjustment


def build_intent(
    terms: Sequence[DiversityTerm],
    values_of: Sequence[Sequence[Sequence[Hashable]]],
    boosts: Floats | None = None,
    slates: int = 1,
) -> SlateIntent:
    """Return the intent of one list; terms of weight 0 are left out.

    Args:
        terms: the diversity terms.
        values_of: for each term the distinct values of each candidate.
        boosts: float32 [N]; must be there if there are no terms.
        slates: number of sampled slates, each of which has its own copy of the values.

    Raises IntentError naming the largest term if there are more than `MAX_CELLS` candidates times
    shared values, or more than `MAX_SLATE_CELLS` over all slates.
    """
    size = len(values_of[0] if boosts is None else boosts)
    used = [number for number, term in enumerate(terms) if term.weight != 0]
    holders = [_shared_values(values_of[number]) for number in used]
    total = sum(map(len, holders))
    limit = min(MAX_CELLS, MAX_SLATE_CELLS // slates)
    if total * size > limit:
        largest = max(range(len(used)), key=lambda place: len(holders[place]))
        rule = (
            f"at most {limit // size} values, over all attributes, that several of {size} "
            "candidates share"
        )
        if limit < MAX_CELLS:
            rule += f", for {slates} sampled slates"
        raise IntentError(used[largest], rule, total)
    ends = list(accumulate(map(len, holders)))
    values = np.zeros((size, total), np.float32)
    alone = np.ones((len(used), size), np.float32)
    for place, (number, end) in enumerate(zip(used, ends, strict=True)):
        of_term = values[:, end - len(holders[place]) : end]
        for column, (members, count) in enumerate(holders[place].items()):
            of_term[list(members), column] = count
        counts = np.array([len(of_one) for of_one in values_of[number]], np.float32)
        some = counts > 0
        alone[place, some] = (counts - of_term.sum(axis=1))[some]
        if terms[number].law == "mean":
            of_term[some] /= counts[some, None]
            alone[place, some] /= counts[some]
    return SlateIntent(
        boosts if boosts is not None and boosts.any() else None,
        values,
        ends,
        alone,
        np.array([terms[number].weight for number in used], np.float32),
        np.array([1 - terms[number].decay for number in used], np.float32),
    )


def _shared_values(values_of: Sequence[Sequence[Hashable]]) -> Counter[tuple[int, ...]]:
    """Return the candidates of each value that at least two have, and how many values they share.

    Values of the same candidates are counted alike in every slate, so they are one.
    """
    holders: dict[Hashable, list[int]] = {}
    for candidate, values in enumerate(values_of):
        for value in values:
            holders.setdefault(value, []).append(candidate)
    return Counter(tuple(members) for members in holders.values() if len(members) > 1)
