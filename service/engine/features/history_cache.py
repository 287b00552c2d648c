"""A bounded cache of prepared histories."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value that reports the size of its arrays."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""


T = TypeVar("T", bound=Sized)

ENTRIES = 4096  # values at any size
OVERHEAD = 2048  # bytes of a value's Python objects, beside its arrays and its key


class HistoryCache(Generic[T]):
    """Values by their exact key; the least recently used go first. Threads may share it.

    nbytes: size of the values with their keys.
    """

    def __init__(
        self,
        max_bytes: int,
        on_lookup: Callable[[bool], None] = lambda hit: None,
        max_entries: int = ENTRIES,
    ) -> None:
        """on_lookup is called after each lookup, with true for a hit."""
        self._max_bytes, self._max_entries, self._on_lookup = max_bytes, max_entries, on_lookup
        self._values: OrderedDict[bytes, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def get(self, key: bytes) -> T | None:
        """Return a value, which becomes the most recently used one, or None."""
        with self._lock:
            entry = self._values.get(key)
            if entry is not None:
                self._values.move_to_end(key)
        self._on_lookup(entry is not None)
        return None if entry is None else entry[0]

    def put(self, key: bytes, value: T) -> None:
        """Keep a value, unless it alone exceeds the limit or another thread was faster."""
        size = value.nbytes + len(key) + OVERHEAD
        with self._lock:
            if size > self._max_bytes or key in self._values:
                return
            self._values[key] = value, size
            self.nbytes += size
            while self.nbytes > self._max_bytes or len(self._values) > self._max_entries:
                self.nbytes -= self._values.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._values)
