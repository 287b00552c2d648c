"""Users and items as the store keeps them: one MessagePack blob each, with names for all values.

A blob is read whatever schema its writer served: values are read by name, and its fingerprint says
if all names are those of a bundle.

    user  {v, s, u, f: {name: value}, h: [items, labels, types, type of each, times]}
    item  {v, s, u, f: {name: value}, c: {statistic: [shows, likes, time]}}

with the version v of this form, the fingerprint s, and the time u of the last change in ms.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import ormsgpack

from service.engine.features.kept_history import KeptHistory
from service.engine.features.schema import Schema
from service.state.errors import EntityError, NewerEntity, StateNewer

VERSION = 1
FINGERPRINT_BYTES = 8
UNKNOWN_SCHEMA = b""
MAX_TYPES = 255  # distinct types in one history
NO_TYPE = 255  # the index of an answer without a type
NO_TIME = -1
LATEST = 1 << 63  # ms; times are int64
# MessagePack: the first byte of a map of five pairs, and the name of the fifth.
FIVE_PAIRS, HISTORY_NAME = b"\x85", ormsgpack.packb("h")
TEXTS = {str}


@dataclass(slots=True)
class Answers:
    """The last answers of a user, the latest last; H answers.

    labels are in 0..1 and have the precision of float32; a type is None where none was stated, a
    time in ms since 1970 UTC likewise.
    """

    items: Sequence[str] = ()
    labels: Sequence[float] = ()
    types: Sequence[str | None] = ()
    times: Sequence[int | None] = ()
    _history: KeptHistory | None = field(default=None, init=False, repr=False, compare=False)

    def history(self, limit: int) -> KeptHistory:
        """Return item and label of the last `limit` answers, the same object for each request."""
        history = self._history
        if history is None or len(history) != min(limit, len(self.items)):
            last = self.last(limit)
            history = self._history = KeptHistory(zip(last.items, last.labels, strict=True))
        return history

    def last(self, limit: int) -> Answers:
        """Return the last `limit` answers, at least one."""
        if len(self.items) <= limit:
            return self
        return Answers(
            self.items[-limit:], self.labels[-limit:], self.types[-limit:], self.times[-limit:]
        )


class Counter(NamedTuple):
    """Decayed counts of one statistic of an item, as of a time in ms since 1970 UTC."""

    shows: float
    likes: float
    time: int


@dataclass(slots=True)
class User:
    """A user: features by name, and the last answers."""

    features: dict[str, Any] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)
    updated_at: int = 0
    fingerprint: bytes = UNKNOWN_SCHEMA

    def to_blob(self) -> bytes:
        """Return the bytes that the store keeps. Raises EntityError for more than MAX_TYPES."""
        history = pack_history(self.answers)
        return user_blob(self.features, history, self.updated_at, self.fingerprint)

    @classmethod
    def from_blob(cls, blob: bytes) -> User:
        """Return the user of a blob. Raises EntityError for anything but bytes of `to_blob`."""
        fields = _unpack(blob)
        answers = _unpack_answers(fields.get("h"))
        return cls(_features(fields), answers, _updated_at(fields), _fingerprint(fields))


@dataclass(slots=True)
class Item:
    """An item: features by name, and counters by the name of their statistic."""

    features: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, Counter] = field(default_factory=dict)
    updated_at: int = 0
    fingerprint: bytes = UNKNOWN_SCHEMA

    def packed_features(self) -> bytes:
        """Return the features as bytes, which are equal only for equal features."""
        return ormsgpack.packb(self.features)

    def to_blob(self) -> bytes:
        """Return the bytes that the store keeps."""
        return ormsgpack.packb(
            {
                "v": VERSION, "s": self.fingerprint, "u": self.updated_at, "f": self.features,
                "c": {name: tuple(counter) for name, counter in self.counters.items()},
            }
        )  # fmt: skip

    @classmethod
    def from_blob(cls, blob: bytes) -> Item:
        """Return the item of a blob. Raises EntityError for anything but bytes of `to_blob`."""
        fields = _unpack(blob)
        counters = _counters(fields.get("c"))
        return cls(_features(fields), counters, _updated_at(fields), _fingerprint(fields))


Entity = TypeVar("Entity", User, Item)


def entity_to_change(kind: type[Entity], blob: bytes | None) -> Entity:
    """Return the entity of a blob; one that no version of the store has written is replaced.

    Raises StateNewer for one of a later version, whose content would be lost.
    """
    try:
        return kind() if blob is None else kind.from_blob(blob)
    except NewerEntity as error:
        raise StateNewer(
            f"an entity was written by a later version of the service ({error}); update this one"
        ) from None
    except EntityError:
        return kind()


def with_answers(
    blob: bytes, answers: Sequence[tuple[str, float, str]], time: int, limit: int, updated_at: int
) -> bytes | None:
    """Return the blob of a user with new answers behind the old ones, without reading those.

    None if an old answer is later, or if the blob is not as `to_blob` writes it.

    Args:
        blob: of the user.
        answers: item, label and type of each.
        time: of the answers, in ms since 1970 UTC.
        limit: most answers that the user keeps.
        updated_at: the user's new time, unless it is later already.
    """
    try:
        fields = _unpack(blob)
        items, labels, names, indices, times = fields["h"]
        size, latest = len(items), times[-8:]
        if (len(labels), len(indices), len(times)) != (4 * size, size, 8 * size):
            return None
        if latest and struct.unpack("<q", latest)[0] > time:
            return None
        for _, _, kind in answers:
            if kind not in names:
                names.append(kind)
        if len(names) > MAX_TYPES:
            return None
        items += [item for item, _, _ in answers]
        labels += b"".join([struct.pack("<f", label) for _, label, _ in answers])
        indices += bytes([names.index(kind) for _, _, kind in answers])
        times += struct.pack("<q", time) * len(answers)
        history = items[-limit:], labels[-4 * limit :], names, indices[-limit:], times[-8 * limit :]
        return ormsgpack.packb({**fields, "u": max(fields["u"], updated_at), "h": list(history)})
    except (AttributeError, EntityError, KeyError, TypeError, ValueError, struct.error):
        return None


def fingerprint_of(schema: Schema) -> bytes:
    """Return the fingerprint of the features of users and items; training does not change it."""
    features = [
        [feature.name, feature.of, feature.kind, feature.width]
        for feature in schema.features
        if feature.of in ("user", "item")
    ]
    text = json.dumps([features, schema.label.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[:FINGERPRINT_BYTES]


def broken(what: str) -> EntityError:
    """Return the error of a blob that no version of the store has written."""
    return EntityError("blob", "written by this store", what)


def _unpack(blob: bytes) -> dict[str, Any]:
    try:
        fields = ormsgpack.unpackb(blob)
    except ValueError:
        raise broken("no MessagePack") from None
    if type(fields) is not dict:
        raise broken("no map")
    version = fields.get("v")
    if type(version) is int and version > VERSION:
        raise NewerEntity("blob", f"at most version {VERSION}", version)
    if version != VERSION:
        raise broken(f"version {version!r}")
    return fields


def _features(fields: Mapping[str, Any]) -> dict[str, Any]:
    features = fields.get("f")
    if type(features) is not dict:
        raise broken("features of another type")
    return features


def _updated_at(fields: Mapping[str, Any]) -> int:
    updated_at = fields.get("u")
    if type(updated_at) is not int or not 0 <= updated_at < LATEST:
        raise broken("no time of a change")
    return updated_at


def _fingerprint(fields: Mapping[str, Any]) -> bytes:
    fingerprint = fields.get("s")
    if type(fingerprint) is not bytes:
        raise broken("a fingerprint of another type")
    return fingerprint


def user_blob(
    features: Mapping[str, Any], history: bytes, updated_at: int, fingerprint: bytes
) -> bytes:
    """Return the blob of a user.

    history: from `pack_history`.
    """
    fields = {"v": VERSION, "s": fingerprint, "u": updated_at, "f": features}
    return FIVE_PAIRS + ormsgpack.packb(fields)[1:] + HISTORY_NAME + history


def pack_history(answers: Answers) -> bytes:
    """Return answers as a blob holds them. Raises EntityError for more than MAX_TYPES."""
    names = dict.fromkeys(answers.types)
    names.pop(None, None)
    if len(names) > MAX_TYPES:
        raise EntityError("history", f"at most {MAX_TYPES} distinct types", len(names))
    index: dict[str | None, int] = {name: place for place, name in enumerate(names)}
    index[None] = NO_TYPE
    size, times = len(answers.items), answers.times
    if None in times:
        times = [NO_TIME if time is None else time for time in times]
    return ormsgpack.packb(
        [
            list(answers.items), struct.pack(f"<{size}f", *answers.labels), list(names),
            bytes(map(index.__getitem__, answers.types)), struct.pack(f"<{size}q", *times),
        ]
    )  # fmt: skip


def _unpack_answers(payload: Any) -> Answers:
    """Return the answers of a blob, by calls for whole columns: it is read with each ranking."""
    if type(payload) is not list or list(map(type, payload)) != [list, bytes, list, bytes, bytes]:
        raise broken("a history of another type")
    items, packed, names, indices, times = payload
    size = len(items)
    if (len(packed), len(indices), len(times)) != (4 * size, size, 8 * size):
        raise broken("a history of different lengths")
    if len(names) > MAX_TYPES or not TEXTS.issuperset(map(type, [*items, *names])):
        raise broken("a history of other ids")
    labels = struct.unpack(f"<{size}f", packed)
    if not all(0.0 <= label <= 1.0 for label in set(labels)):
        raise broken("a label outside 0..1")
    if any(index >= len(names) and index != NO_TYPE for index in set(indices)):
        raise broken("a type without a name")
    name_of = [*names, *[None] * (NO_TYPE + 1 - len(names))]
    moments: Sequence[int | None] = struct.unpack(f"<{size}q", times)
    if NO_TIME in moments:
        moments = [None if moment == NO_TIME else moment for moment in moments]
    return Answers(items, labels, list(map(name_of.__getitem__, indices)), moments)


def _counters(payload: Any) -> dict[str, Counter]:
    if type(payload) is not dict:
        raise broken("counters of another type")
    counters = {}
    for name, entry in payload.items():
        valid = (
            type(entry) is list
            and list(map(type, entry)) == [float, float, int]
            and 0.0 <= entry[1] <= entry[0] < math.inf
        )
        if not valid:
            raise broken("a counter that no events make")
        counters[name] = Counter(*entry)
    return counters
