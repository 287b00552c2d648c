"""Rows of stored items, encoded once per change and copied into each list.

The row of an item has the values of the item table, or the defaults of an unknown item, and over
them those of the store. It is kept with the bytes that it was made from, and made again once the
store returns others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np

from service.engine.contract import Integers
from service.engine.features.recent_items import Recent, RecentItems
from service.engine.features.stored_encoder import (
    CLIPPED,
    CLIPPED_RATES,
    IGNORED,
    KERNELS,
    LIVE,
    UPDATED,
    ItemEncoder,
)
from service.engine.features.stored_items import Entry, StoredItem, StoredItems, StoredList

KEPT_BYTES = 64 << 20  # of rows, and again of the bytes that they were made from
TYPICAL_BYTES = 1024  # that one row is made from
LEAST_ROWS = 4096
NO_ENTRY = Entry(0, ())
ABSENT = repeat(-1)
EVERYWHERE = slice(None)
FREE = np.iinfo(np.int64).max  # the last use of a row that holds no item

Decoded = Mapping[str, tuple[bytes, StoredItem]]  # bytes and item by id


class Located:
    """The slots of recent items by their handles.

    stamps, slots, index: int64 [H], stamp that each was located at, its slot or -1, and its row in
    the item table.
    """

    def __init__(self, items: RecentItems) -> None:
        self.items = items
        self.stamps = np.zeros(items.size, np.int64)  # no item has this stamp
        self.slots, self.index = np.zeros_like(self.stamps), np.zeros_like(self.stamps)

    def put(self, recent: Recent, slots: Integers, index: Integers) -> None:
        """Locate the items of a list."""
        handles = recent.handles
        self.stamps[handles], self.slots[handles] = recent.stamps, slots
        self.index[handles] = index


class StoredRows:
    """The rows of recent stored items. One thread may use it."""

    def __init__(self, encoder: ItemEncoder, max_bytes: int = KEPT_BYTES) -> None:
        """max_bytes: limit of the rows."""
        self._encoder, self._max_bytes = encoder, max_bytes
        self._lists, self._live = 0, True
        self._allocate(LEAST_ROWS)

    def _allocate(self, least: int) -> None:
        """Make room for at least so many items, and forget all rows."""
        encoder = self._encoder
        parts = dict(encoder.encode([], []).arrays)
        none = np.zeros(0, np.int64)
        parts["values"] = parts["numbers"]
        parts["rows"] = encoder.item_rows(none, parts["numbers"], parts["change"])
        size = TYPICAL_BYTES + sum(
            rows.itemsize * math.prod(rows.shape[1:]) for rows in parts.values()
        )
        count = max(least, self._max_bytes // size)
        self._blobs: dict[str, bytes] = {}
        self._slots: dict[str, int] = {}
        self._blob_bytes = 0
        # Pages that no row was written to take no memory.
        self._kept = {n: np.zeros((count, *r.shape[1:]), r.dtype) for n, r in parts.items()}
        self._ids = [""] * count  # of the item in each row
        self._entries = np.full(count, NO_ENTRY, object)
        self._hashes = [0] * count  # of the features of each
        self._free = list(range(count))
        self._handles = np.zeros(count, np.int64)  # of the item in each row, if it is located
        self._located: Located | None = None
        self._used = np.full(count, FREE)  # number of the list that used each row last
        self._nothing = self._gather(none, none, none, 0, raw=False)

    def __len__(self) -> int:
        return len(self._slots)

    def take(
        self, ids: Sequence[str], items: StoredItems, with_rows: bool = True, raw: bool = True
    ) -> StoredList:
        """Return the encoded items of a list.

        Args:
            ids: of the N candidates.
            items: of the list.
            with_rows: return the generator's rows.
            raw: return raw rows of the history kernels, even where unit vectors would do.
        """
        self._lists += 1
        if 2 * len(ids) > len(self._used) or items.live is not self._live:
            self._live = items.live
            self._allocate(max(2 * len(ids), len(self._used)))
        slots, index, corrupt = self._locate(ids, items)
        at: slice | Integers = EVERYWHERE
        if not len(slots) or slots.min() < 0:
            at = np.flatnonzero(slots >= 0)
            slots = slots[at]
        if not len(slots):
            return dataclasses.replace(self._nothing, now=items.now, corrupt=corrupt, index=index)
        self._used[slots] = self._lists
        taken = self._gather(slots, at, index, items.now, raw)
        taken.corrupt = corrupt
        if with_rows and self._changes_with_time:
            change = self._kept["change"].take(slots, axis=0)
            taken.rows = self._encoder.item_rows(index[at], taken.numbers, change)
        elif with_rows:
            taken.rows = self._kept["rows"].take(slots, axis=0)
        return taken

    def _locate(self, ids: Sequence[str], items: StoredItems) -> tuple[Integers, Integers, int]:
        """Return the slot of each candidate, -1 without one, and its row in the item table.

        Also return the number of broken items.
        """
        recent, located = items.recent, self._located
        if recent is not None:
            if located is None or located.items is not recent.items:
                self._located = located = Located(recent.items)
            if (located.stamps.take(recent.handles) == recent.stamps).all():
                handles = recent.handles
                return located.slots.take(handles), located.index.take(handles), 0
        corrupt = 0
        if list(map(self._blobs.get, ids)) != list(items.blobs):
            corrupt = self._refresh(ids, items)
        slots = np.fromiter(map(self._slots.get, ids, ABSENT), np.int64, len(ids))
        index = self._encoder.find(ids)
        if recent is not None and located is not None and not corrupt:
            located.put(recent, slots, index)
            held = slots >= 0
            self._handles[slots[held]] = recent.handles[held]
        return slots, index, corrupt

    def _unlocate(self, slots: Sequence[int]) -> None:
        """Let the next lists look for the items in some slots, which hold other values now."""
        if self._located is not None:
            self._located.stamps[self._handles[slots]] = 0

    @property
    def _changes_with_time(self) -> bool:
        """True if the values of an item change without a write."""
        return self._live and self._encoder.rates.decay

    def _gather(
        self, slots: Integers, at: slice | Integers, index: Integers, now: int, raw: bool
    ) -> StoredList:
        """Return copies of rows, with the statistics that counters give now."""
        kept, encoder = self._kept, self._encoder
        facts = kept["facts"].take(slots, axis=0)
        totals = np.add.reduce(facts, axis=0).tolist()
        taken = StoredList(
            encoder.places,
            now,
            self._entries.take(slots),
            at,
            index,
            kept["values"].take(slots, axis=0),
            kept["tokens"].take(slots, axis=0),
            facts[:, UPDATED],
            totals[CLIPPED] + totals[CLIPPED_RATES],
            totals[IGNORED],
        )
        if totals[KERNELS]:
            units = kept["units"]
            if units.shape[1] and not raw:
                taken.units = units.take(slots, axis=0)
            else:
                names = [f"kernel.{number}" for number in range(encoder.kernels)]
                taken.kernels = [kept[name].take(slots, axis=0) for name in names]
        if self._live and totals[LIVE]:
            taken.statistics = encoder.rates.names
            if totals[LIVE] < len(slots) * len(taken.statistics):
                some = ~np.isnan(kept["counts"].take(slots, axis=0)[:, 0]).all(axis=0)
                taken.statistics = [encoder.rates.names[place] for place in np.flatnonzero(some)]
            if encoder.rates.decay:
                counts = kept["counts"].take(slots, axis=0)
                _, clipped = encoder.with_rates(taken.numbers, counts, now)
                taken.clipped += int(np.count_nonzero(clipped))
        return taken

    def _settle(self, slots: Sequence[int], ids: Sequence[str]) -> None:
        """Write what stays until the next write of an item: its values, and its row."""
        kept, encoder = self._kept, self._encoder
        values, index = kept["numbers"][slots], encoder.find(ids)
        if self._live and encoder.rates.names and not encoder.rates.decay:
            values, clipped = encoder.with_rates(values, kept["counts"][slots], 0)
            kept["facts"][slots, CLIPPED_RATES] = np.count_nonzero(clipped, axis=1)
        kept["values"][slots] = values
        if not self._changes_with_time:
            kept["rows"][slots] = encoder.item_rows(index, values, kept["change"][slots])

    def _refresh(self, ids: Sequence[str], items: StoredItems) -> int:
        """Make the rows of a list those of its bytes; return the number of broken items."""
        slots = map(self._slots.get, ids, repeat(-1))
        self._used[[slot for slot in slots if slot >= 0]] = self._lists  # they stay
        decoded, broken = {}, set()
        for item_id, blob in zip(ids, items.blobs, strict=True):
            if blob is None:
                self._drop(item_id)
            elif self._blobs.get(item_id) != blob:
                try:
                    decoded[item_id] = blob, items.decode(blob)
                except ValueError:
                    self._drop(item_id)
                    broken.add(item_id)
        self._keep(self._move_counters(decoded))
        return len(broken)

    def _move_counters(self, decoded: Decoded) -> Decoded:
        """Update the rows of items whose features are the same, and return the other items.

        Most changes are events, which move counters alone.
        """
        rest: dict[str, tuple[bytes, StoredItem]] = {}
        moved: dict[str, StoredItem] = {}
        slots = []
        for item_id, (blob, item) in decoded.items():
            slot = self._slots.get(item_id)
            if slot is None or self._hashes[slot] != hash(item.packed_features()):
                rest[item_id] = blob, item
                continue
            self._blob_bytes += len(blob) - len(self._blobs[item_id])
            self._blobs[item_id] = blob
            moved[item_id] = item
            slots.append(slot)
        if moved:
            facts, changed = self._kept["facts"], list(moved.values())
            self._kept["counts"][slots], facts[slots, LIVE] = self._encoder.counts(changed)
            facts[slots, UPDATED] = [item.updated_at for item in changed]
            self._settle(slots, list(moved))
            self._unlocate(slots)
        return rest

    def _keep(self, decoded: Decoded) -> None:
        """Encode items and keep their rows."""
        if not decoded:
            return
        for item_id in decoded:
            self._drop(item_id)
        encoded = self._encoder.encode(list(decoded), [item for _, item in decoded.values()])
        self._make_room(len(decoded))
        slots = [self._free.pop() for _ in decoded]
        for name, rows in encoded.arrays.items():
            self._kept[name][slots] = rows
        self._settle(slots, list(decoded))
        self._used[slots] = self._lists
        for slot, item_id, entry in zip(slots, decoded, encoded.entries, strict=True):
            blob, item = decoded[item_id]
            self._blobs[item_id], self._slots[item_id] = blob, slot
            self._ids[slot], self._entries[slot] = item_id, entry
            self._hashes[slot] = hash(item.packed_features())
            self._blob_bytes += len(blob)

    def _make_room(self, count: int) -> None:
        """Drop the items that are unused for longest, unless there is room for `count` others."""
        lacking = count - len(self._free)
        if lacking <= 0 and self._blob_bytes <= self._max_bytes:
            return
        unused = np.flatnonzero(self._used < self._lists)
        number = min(len(unused), max(lacking, len(self._used) // 8))
        if number:
            oldest = np.argpartition(self._used[unused], number - 1)[:number]
            for slot in unused[oldest].tolist():
                self._drop(self._ids[slot])

    def _drop(self, item_id: str) -> None:
        slot = self._slots.pop(item_id, None)
        if slot is not None:
            self._blob_bytes -= len(self._blobs.pop(item_id))
            self._free.append(slot)
            self._unlocate([slot])
            self._entries[slot] = NO_ENTRY
            self._used[slot] = FREE
