"""The protocol of the engines that keep entities, and the keys of entities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Literal, NamedTuple, Protocol

from service.state.errors import EntityError

Kind = Literal["user", "item", "load"]
# `load` holds the progress of loads, so that an interrupted one resumes.
KINDS: tuple[Kind, ...] = ("user", "item", "load")
MAX_ID_BYTES = 480  # LMDB keys have at most 511 bytes
ID_RULE = f"text of 1 to {MAX_ID_BYTES} bytes in UTF-8"
SCAN_BATCH = 1000  # entities that a scan reads at a time
MARK_BYTES = 16
WINDOW_S = 86_400  # for which marks are kept, unless a setting says otherwise
KEEP_EXPIRY = -1  # as the expiry that a change returns: that of the entity before


class Key(NamedTuple):
    """The key of an entity."""

    kind: Kind
    id: str


class Value(NamedTuple):
    """The bytes of an entity, and the time in ms since 1970 UTC at which it expires, or None.

    A change may return KEEP_EXPIRY as the time.
    """

    blob: bytes
    expires_at: int | None = None


Change = Callable[[int, bytes | None], Value | None]


@dataclass(frozen=True)
class Health:
    """The condition of an engine.

    entities     number by kind; under `all` if the engine counts them together
    bytes        size of the file or of the server's data
    durable      true if an acknowledged write survives a power cut, None if unknown
    lag_s        seconds by which reads may lag behind writes: of a replica, those since it last
                 heard of its primary
    notes        conditions that an operator should change
    limit        bytes that it may grow to, None if there is no limit that it knows
    """

    entities: Mapping[str, int]
    bytes: int | None
    durable: bool | None
    lag_s: float = 0.0
    notes: Sequence[str] = field(default_factory=tuple)
    limit: int | None = None


class Engine(Protocol):
    """Keeps one blob per entity. Threads may share it.

    Every method raises EngineError; EntityError is raised for an id that no engine can keep.
    Expired entities are absent.
    """

    name: str

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """Return the blob of each entity, None for one that is absent."""

    def put_many(self, entries: Sequence[tuple[Key, Value]]) -> None:
        """Write entities; of two entries of one key the later one stays. Durable on return."""

    def update_many(
        self, keys: Sequence[Key], change: Change, once: Sequence[bytes | None] | None = None
    ) -> list[bool]:
        """Read, change and write each entity atomically, and return if each change was made.

        The changes of one key are made in order, and written together.

        Args:
            keys: of the entities.
            change: is called with the place in `keys` and the blob, None if absent, and returns
                the new value, or None to leave the entity as it is. It may be called again for a
                place if another writer was faster. An error that it raises ends the call.
            once: a mark of MARK_BYTES per key, or None. A change is left out, and False, if one
                of its key with its mark was made within the window. All changes of a mark belong
                into one call: an engine may keep one mark for all of them.
        """

    def delete(self, keys: Sequence[Key]) -> int:
        """Delete entities and return the number of those that existed."""

    def scan(self, kind: Kind) -> Iterator[list[tuple[str, Value]]]:
        """Yield all entities of a kind, by id, a batch at a time.

        An entity that is written meanwhile may be missed, or seen as it was; Redis may yield one
        twice.
        """

    def health(self) -> Health:
        """Return the condition of the engine, without reading every entity."""

    def compact(self) -> None:
        """Rewrite the data so that nothing remains of what was deleted or expired."""

    def close(self) -> None:
        """Release files and connections."""


def places_by_key(
    keys: Sequence[Key], once: Sequence[bytes | None] | None
) -> tuple[dict[Key, list[int]], list[bool]]:
    """Return the places of each key, and for each place if it is the first of its key and mark.

    Places that are not the first are left out.
    """
    places: dict[Key, list[int]] = {}
    if once is None:
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        return places, [True] * len(keys)
    seen: set[tuple[Key, bytes]] = set()
    first = [True] * len(keys)
    for place, (key, mark) in enumerate(zip(keys, once, strict=True)):
        if mark is not None:
            if (key, mark) in seen:
                first[place] = False
                continue
            seen.add((key, mark))
        places.setdefault(key, []).append(place)
    return places, first


def change_in_order(places: Sequence[int], blob: bytes | None, change: Change) -> Value | None:
    """Return the value after the changes of one entity, None if they leave it as it is."""
    value: Value | None = None
    for place in places:
        changed = change(place, blob)
        if changed is None:
            continue
        if changed.expires_at == KEEP_EXPIRY and value is not None:
            changed = Value(changed.blob, value.expires_at)
        value, blob = changed, changed.blob
    return value


def keys_of(kind: Kind, ids: Iterable[str]) -> list[Key]:
    """Return the keys of entities of a kind, several times faster than one by one."""
    return list(map(partial(tuple.__new__, Key), zip(repeat(kind), ids, strict=False)))


def encode_id(key: Key) -> bytes:
    """Return the id of a key in UTF-8. Raises EntityError if no engine can keep it."""
    try:
        encoded = key.id.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 0 < len(encoded) <= MAX_ID_BYTES:
        raise EntityError(f"{key.kind} id", ID_RULE, key.id)
    return encoded


def now_ms() -> int:
    """Return the time in ms since 1970 UTC."""
    return time.time_ns() // 1_000_000
