"""The bytes of recent stored items, so that an unchanged item costs no read and no comparison.

Those of users are kept only while they are fresh, for an engine that can tell that nothing changed.
A handle is a small number that stands for the id of an item, so that all that is kept of an item
lies in arrays. A stamp is the number of a change: it says which bytes of which item a handle has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from service.engine.contract import Integers

HANDLES = 1 << 16
KEPT_BYTES = 64 << 20  # of the items
KEPT_USER_BYTES = 4 << 20  # of the users
NONE = repeat(-1)
FREE = np.iinfo(np.int64).max  # the last use of a handle that stands for no item


@dataclass(slots=True)
class Recent:
    """The items of a list of N candidates in `items`, as they were read.

    handles  int64 [N]
    stamps   int64 [N]
    """

    items: RecentItems
    handles: Integers
    stamps: Integers

    def part(self, places: slice) -> Recent:
        """Return a part of the list."""
        return Recent(self.items, self.handles[places], self.stamps[places])


class RecentItems:
    """The items that were read last; one thread may use it.

    An item is fresh while its bytes are known to be those of the store. size: number of handles;
    version: of the store that fresh items are as of, -1 before any; bytes_read: of all entities;
    users: bytes of fresh users by id; drops: number of times that handles came to stand for others.
    """

    def __init__(self, handles: int = HANDLES, max_bytes: int = KEPT_BYTES) -> None:
        """Keep at most so many items, and so many bytes of them beside those of the last lookup."""
        self.size, self._max_bytes, self._bytes = handles, max_bytes, 0
        self.version, self.bytes_read, self.drops = -1, 0, 0
        self.users: dict[str, bytes] = {}
        self._user_bytes = 0
        self._handles: dict[str, int] = {}
        self._ids = [""] * handles
        self._blobs: list[bytes | None] = [None] * handles
        self._stamps = np.zeros(handles, np.int64)
        self._fresh = np.zeros(handles, np.bool_)
        self._used = np.full(handles, FREE)  # number of the lookup that used each last
        self._free = list(range(handles - 1, -1, -1))
        self._lookups = self._changes = 0

    def __len__(self) -> int:
        return len(self._handles)

    def handles_of(self, ids: Sequence[str]) -> Integers | None:
        """Return the handle of each item, int64 [N], None unless all have one.

        An id may be repeated.
        """
        try:
            handles = np.fromiter(map(self._handles.__getitem__, ids), np.int64, len(ids))
        except KeyError:
            return None
        self._lookups += 1
        # As long as there is much room, nobody asks which items were used last.
        if 4 * len(self._free) < self.size or 2 * self._bytes > self._max_bytes:
            self._used[handles] = self._lookups
            if self._bytes > self._max_bytes:
                self._make_room(0)
        return handles

    def find(self, ids: Sequence[str]) -> Integers:
        """Return the handle of each item, int64 [N]; items that have none get one.

        ids: at most half as many as there are handles; one may be repeated.
        """
        handles = self.handles_of(ids)
        if handles is not None:
            return handles
        self._lookups += 1
        handles = np.fromiter(map(self._handles.get, ids, NONE), np.int64, len(ids))
        self._used[handles[handles >= 0]] = self._lookups  # they stay
        absent = (handles < 0).nonzero()[0].tolist()
        self._make_room(len(absent))
        for place in absent:
            handle = self._handles.get(ids[place])
            handles[place] = self._add(ids[place]) if handle is None else handle
        self._used[handles] = self._lookups
        if self._bytes > self._max_bytes:
            self._make_room(0)
        return handles

    def stale(self, handles: Integers) -> list[int]:
        """Return the places of the items that are not fresh."""
        fresh = self._fresh.take(handles)
        return (~fresh).nonzero()[0].tolist() if b"\0" in fresh.tobytes() else []

    def put(self, handles: list[int], blobs: list[bytes | None]) -> None:
        """Keep the bytes of items as they were just read, None of one that the store lacks."""
        kept = self._blobs
        self.bytes_read += sum(map(len, filter(None, blobs)))
        self._fresh[handles] = True
        if list(map(kept.__getitem__, handles)) == blobs:
            return
        for handle, blob in zip(handles, blobs, strict=True):
            if kept[handle] != blob:
                self._changes += 1
                self._bytes += len(blob or b"") - len(kept[handle] or b"")
                kept[handle], self._stamps[handle] = blob, self._changes

    def outdate(self, handles: list[int] | None = None) -> None:
        """Say that the store may have other bytes of these items; None: of all entities."""
        self._fresh[slice(None) if handles is None else handles] = False
        if handles is None:
            self._drop_users()

    def outdate_ids(self, ids: Iterable[str]) -> None:
        """Say that the store may have other bytes of some items, which need not have handles."""
        for item in ids:
            handle = self._handles.get(item)
            if handle is not None:
                self._fresh[handle] = False

    def keep_users(self, blobs: Mapping[str, bytes]) -> None:
        """Keep the bytes of users as they were just read, until all entities are outdated."""
        self._user_bytes += sum(map(len, blobs.values()))
        if self._user_bytes > KEPT_USER_BYTES:
            self._drop_users()
        self.users.update(blobs)

    def _drop_users(self) -> None:
        self.users.clear()
        self._user_bytes = 0

    def recent(self, handles: Integers) -> Recent:
        """Return the items of a list with their stamps."""
        return Recent(self, handles, self._stamps.take(handles))

    def blobs(self, handles: Integers) -> list[bytes | None]:
        """Return the bytes of items, None of one that the store lacks."""
        return list(map(self._blobs.__getitem__, handles.tolist()))

    def _add(self, item: str) -> int:
        handle = self._free.pop()
        self._changes += 1
        self._handles[item], self._ids[handle] = handle, item
        self._stamps[handle] = self._changes
        return handle

    def _make_room(self, count: int) -> None:
        """Drop the items that are unused for longest, until `count` others and the bytes have room.

        Items of the current lookup stay. An eighth of the items goes at a time, because the search
        for the oldest reads all of them.
        """
        while (lacking := count - len(self._free)) > 0 or self._bytes > self._max_bytes:
            unused = np.flatnonzero(self._used < self._lookups)
            number = min(len(unused), max(1, lacking, len(self) // 8))
            if not number:
                return
            oldest = np.argpartition(self._used[unused], number - 1)[:number]
            self._drop(unused[oldest].tolist())

    def _drop(self, handles: list[int]) -> None:
        self.drops += 1
        for handle in handles:
            del self._handles[self._ids[handle]]
            self._bytes -= len(self._blobs[handle] or b"")
            self._blobs[handle] = None
        self._free += handles
        self._fresh[handles] = False
        self._used[handles] = FREE
