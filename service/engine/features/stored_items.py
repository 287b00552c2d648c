"""Items of an entity store in a candidate list: their bytes, and their encoded features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers
from service.engine.features.kernels import Encoded
from service.engine.features.recent_items import Recent

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


class StoredItem(Protocol):
    """An item as a store keeps it.

    features by name; counters by the name of their statistic: shows, likes, and the time in ms
    since 1970 UTC that both are as of; updated_at: time of the last change in ms.
    """

    @property
    def features(self) -> Mapping[str, Any]: ...
    @property
    def counters(self) -> Mapping[str, tuple[float, float, int]]: ...
    @property
    def updated_at(self) -> int: ...
    def packed_features(self) -> bytes:
        """Return the features as bytes, which are equal only for equal features."""


@dataclass(slots=True)
class StoredItems:
    """The stored items of a list of N candidates, as they were read.

    blobs   bytes of each item, None for one that the store lacks
    decode  returns the item of some bytes; raises ValueError for bytes that no store has written
    now     time of the list in ms since 1970 UTC
    live    counters give the values of statistics
    recent  their handles; None for a list that is not compared with earlier ones
    """

    blobs: Sequence[bytes | None]
    decode: Callable[[bytes], StoredItem]
    now: int
    live: bool = True
    recent: Recent | None = None


@dataclass(slots=True)
class Entry:
    """The names of an item's features, those in use and those ignored.

    names: a bit for each item feature of the schema.
    """

    names: int
    ignored: tuple[str, ...]


@dataclass(slots=True)
class Places:
    """The places of the features of items in a layout, and their names by bit."""

    columns: slice | Integers
    slots: slice | Integers
    names: Sequence[str]


@dataclass(slots=True)
class StoredList:
    """The stored items of a list, encoded; h of its candidates have one.

    entries     Entry [h]
    at          position of each of them in the list; a slice if all candidates have one
    index       int64 [N], row of each candidate in the item table
    numbers     float32 [h, K], the number columns of items
    tokens      int [h, Q], the token slots of items
    updated_at  int64 [h], time of each item's last change in ms
    clipped     values that were clipped to the range of training
    ignored     stored values that the schema does not declare or allow
    corrupt     candidates whose bytes no store has written
    kernels     per history kernel, raw rows [h, width]; empty if they are those of the table
    units       unit vectors of all kernels in their place, float32 [h, W]
    statistics  names of the statistics that counters give to some item
    rows        float32 [h, D], the item rows of the generator; None if not asked for
    """

    places: Places
    now: int
    entries: npt.NDArray[np.object_]
    at: slice | Integers
    index: Integers
    numbers: Floats
    tokens: Array
    updated_at: Integers
    clipped: int
    ignored: int
    corrupt: int = 0
    kernels: Sequence[Encoded] = ()
    units: Floats | None = None
    statistics: Sequence[str] = ()
    rows: Floats | None = None

    @property
    def is_complete(self) -> bool:
        """True if all candidates have a stored item."""
        return isinstance(self.at, slice)

    def write(self, numbers: Floats, tokens: Integers) -> None:
        """Write the features of the items to numbers [N, F] and tokens [N, T]."""
        _put(numbers, self.at, self.places.columns, self.numbers)
        self.write_tokens(tokens)

    def write_tokens(self, tokens: Integers) -> None:
        """Write only the tokens."""
        _put(tokens, self.at, self.places.slots, self.tokens)

    def write_kernels(self, raw: Sequence[Encoded]) -> None:
        """Write the raw rows of each history kernel to raw rows [N, width]."""
        for rows, stored in zip(raw, self.kernels, strict=True):
            rows[self.at] = stored

    def over_units(self) -> tuple[slice | Integers, Floats] | None:
        """Return the places of the items and their unit vectors, None for those of the table."""
        return None if self.units is None else (self.at, self.units)

    def feature_names(self) -> list[str]:
        """Return the features that stored values give to some item."""
        bits = 0
        for entry in self.entries:
            bits |= entry.names
        return [name for place, name in enumerate(self.places.names) if bits >> place & 1]

    def names(self) -> set[str]:
        """Return the features in which an item may differ from the item table."""
        return {*self.feature_names(), *self.statistics}

    def ignored_names(self) -> list[str]:
        """Return the names of the stored values that the schema does not declare or allow."""
        return sorted({name for entry in self.entries for name in entry.ignored})

    def ages_s(self) -> tuple[float, float] | None:
        """Return the seconds since the oldest and since the latest change, None without items."""
        if not len(self.updated_at):
            return None
        return self.age_s(self.updated_at.min()), self.age_s(self.updated_at.max())

    def age_s(self, updated_at: int | np.int64) -> float:
        """Return the seconds since a change, 0 for one to come."""
        return max(0, self.now - int(updated_at)) / 1e3


def _put(target: Array, at: slice | Integers, places: slice | Integers, values: Array) -> None:
    if isinstance(at, slice) or isinstance(places, slice):
        target[at, places] = values
    else:
        target[at[:, None], places] = values
