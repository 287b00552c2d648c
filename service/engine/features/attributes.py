"""Read the values of a feature with tokens back from the tokens of candidates."""

from __future__ import annotations

from itertools import chain

from service.engine.contract import Integers
from service.engine.features.featuriser import Featuriser


def values_of(featuriser: Featuriser, name: str, tokens: Integers) -> list[tuple[str, ...]]:
    """Return each candidate's distinct values of a category, categories or identifier.

    Values that the vocabulary lacks are left out.

    Args:
        featuriser: of the bundle.
        name: of the feature.
        tokens: int64 [N, T], in the order of the schema.

    Raises KeyError for any other feature, and for one with buckets, whose values are not kept.
    """
    layout = featuriser.layout
    first, feature = layout.first_token[name], layout.features[name]
    if feature.buckets is not None:
        raise KeyError(name)
    words = featuriser.vocabulary(name)
    places = [layout.token_order[slot] for slot in layout.slot_range(feature)]
    numbers = (tokens[:, places] - (first + 1)).tolist()
    # Candidates share values, and reading a word takes longer than looking its number up.
    texts = {number: words[number] for number in set(chain.from_iterable(numbers)) if number >= 0}
    return [
        tuple(dict.fromkeys([texts[number] for number in row if number >= 0])) for row in numbers
    ]


def candidate_values(featuriser: Featuriser, name: str, tokens: Integers) -> list[tuple[str, ...]]:
    """Return `values_of` a feature of items or candidates, whose values can differ in a list.

    Raises KeyError as `values_of` does, and for a feature of the user or the context.
    """
    values = values_of(featuriser, name, tokens)
    if featuriser.layout.features[name].of not in ("item", "candidate"):
        raise KeyError(name)
    return values


def groups_of(featuriser: Featuriser, name: str, tokens: Integers) -> list[str | None]:
    """Return each candidate's value of a category or identifier, None if it has no known value.

    Args:
        featuriser: of the bundle.
        name: of the feature.
        tokens: int64 [N, T], in the order of the schema.

    Raises KeyError for any other feature, and for one with buckets, whose values are not kept.
    """
    feature = featuriser.layout.features[name]
    if feature.slots != 1:
        raise KeyError(name)
    return [values[0] if values else None for values in values_of(featuriser, name, tokens)]
