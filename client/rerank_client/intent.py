"""The intent of a list: diversity and boosts, checked before they are sent, and followed without
the service.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from rerank_client.checks import as_list, as_mapping, as_sequence, check_number, wrong_type

# Defaults of the service.
WEIGHT, DECAY, LAW = 0.6, 0.2, "sum"
LARGEST_WEIGHT, LARGEST_BOOST = 10, 10
FLOOR = 1e-30  # is added to an item's worth, so that its logarithm is finite


class Diversity(TypedDict, total=False):
    """A bonus for values of one attribute that the slate does not have yet.

    by: the attribute. weight: from 0 to 10. decay: between 0 and 1, the share of a value's worth
    that each item with it takes away. law: `sum` of a candidate's values, or their `mean`.
    """

    by: Required[str]
    weight: float | None
    decay: float | None
    law: Literal["sum", "mean"] | None


def check_diversity(field: str, value: object) -> None:
    """Raise TypeError unless the value is a mapping like Diversity, or a list of such mappings."""
    terms = {field: value}
    if not isinstance(value, Mapping):
        entries = as_list(field, value, "mappings")
        terms = {f"{field}[{index}]": entry for index, entry in enumerate(entries)}
    for name, term in terms.items():
        stated = as_mapping(name, term)
        if not isinstance(stated.get("by"), str):
            raise wrong_type(f"{name}.by", "a string", stated.get("by"))
        for part in ("weight", "decay"):
            if stated.get(part) is not None:
                check_number(f"{name}.{part}", stated[part])


def check_topics(field: str, values: object) -> None:
    """Raise TypeError unless the values of one candidate are a list of strings or None."""
    for index, value in enumerate(() if values is None else as_sequence(field, values)):
        if not isinstance(value, str):
            raise wrong_type(f"{field}[{index}]", "a string", value)


class ListIntent:
    """Diversity and boosts of one list while its slate grows.

    The bonus of a candidate is weight * ln(sum over its values of (1 - decay)^(times the value is
    in the slate)); with the law `mean` the sum is divided by the number of values. Values come from
    `topics` and `groups` of the request alone, since the client has no item table. A number out of
    range counts as the nearest in it, and NaN, which an array of boosts may hold, as 0: the service
    refuses both when it can be reached.
    """

    def __init__(self, body: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> None:
        stated = body.get("diversity") or ()
        terms = [stated] if isinstance(stated, Mapping) else list(stated)
        self._terms = [_Term(term, candidates) for term in terms if term.get("weight") != 0]
        self._boosts = [
            _within(-LARGEST_BOOST, candidate.get("boost") or 0.0, LARGEST_BOOST)
            for candidate in candidates
        ]
        self.is_empty = not self._terms and not any(self._boosts)

    def score(self, index: int) -> float:
        """Return the score of a candidate: the discount of its initial rank, boost and bonus."""
        bonus = sum(term.bonus(index) for term in self._terms)
        return -math.log1p(index) + self._boosts[index] + bonus

    def place(self, index: int) -> None:
        """Put a candidate into the slate."""
        for term in self._terms:
            term.place(index)


class _Term:
    """One term of the diversity, with the times that each value is in the slate."""

    def __init__(self, stated: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> None:
        name, weight, decay = stated["by"], stated.get("weight"), stated.get("decay")
        self._weight = _within(0, WEIGHT if weight is None else weight, LARGEST_WEIGHT)
        self._retained = 1 - _within(0, DECAY if decay is None else decay, 1)
        self._is_mean = (stated.get("law") or LAW) == "mean"
        self._values = [_values_of(candidate, name) for candidate in candidates]
        self._counts: Counter[str] = Counter()

    def bonus(self, index: int) -> float:
        """Return the bonus of a candidate in nats, 0 for one without values."""
        values = self._values[index]
        if not values:
            return 0.0
        worth = math.fsum(self._retained ** self._counts[value] for value in values)
        if self._is_mean:
            worth /= len(values)
        return self._weight * math.log(worth + FLOOR)

    def place(self, index: int) -> None:
        """Count the values of a candidate."""
        self._counts.update(self._values[index])


def _within(lowest: float, value: float, largest: float) -> float:
    """Return the value as a float, or the bound that it exceeds; an integer may exceed a float.

    NaN is 0, since a score of NaN has no place in an order.
    """
    bounded = float(min(max(value, lowest), largest))
    return 0.0 if math.isnan(bounded) else bounded


def _values_of(candidate: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the distinct values of a candidate, of its topics, else of its group."""
    topics = (candidate.get("topics") or {}).get(name)
    if topics is not None:
        return tuple(dict.fromkeys(topics))
    group = (candidate.get("groups") or {}).get(name)
    return () if group is None else (group,)
