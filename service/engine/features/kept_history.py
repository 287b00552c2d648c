"""A history that many requests share, with its entries as a featuriser has found them."""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.contract import Floats, Integers


@dataclass(slots=True)
class Entries:
    """The H entries of a history that count.

    rows    int64 [H], row of each in the item table
    labels  float32 [H]
    key     of both, for a cache of prepared histories
    """

    rows: Integers
    labels: Floats
    key: bytes


class KeptHistory(list[tuple[str, float]]):
    """Item and label of each entry, the latest last; nobody changes it.

    reader: the featuriser, by an object of its own, that found the entries last.
    """

    reader: object = None
    entries: Entries | None = None
