"""The protocol of the engines that keep entities, and the keys of entities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from service.state.errors import EntityError

Kind = Literal["user", "item", "load"]
# `load` holds the progress of loads, so that an interrupted one resumes.
KINDS: tuple[Kind, ...] = ("user", "item", "load")
MAX_ID_BYTES = 480  # LMDB keys have at most 511 bytes
ID_RULE = f"text of 1 to {MAX_ID_BYTES} bytes in UTF-8"
SCAN_BATCH = 1000  # entities that a scan reads at a time


class Key(NamedTuple):
    """The key of an entity."""

    kind: Kind
    id: str


class Value(NamedTuple):
    """The bytes of an entity, and the time in ms since 1970 UTC at which it expires, or None."""

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
    """

    entities: Mapping[str, int]
    bytes: int | None
    durable: bool | None
    lag_s: float = 0.0
    notes: Sequence[str] = field(default_factory=tuple)


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

    def update_many(self, keys: Sequence[Key], change: Change) -> None:
        """Read, change and write each entity atomically; in order if a key occurs twice.

        Args:
            keys: of the entities.
            change: is called with the place in `keys` and the blob, None if absent, and returns
                the new value, or None to leave the entity as it is. It may be called again for a
                place if another writer was faster. An error that it raises ends the call.
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
