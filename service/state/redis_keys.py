"""Names of entities in Redis, and the commands that read and write them, for any client.

A name is PREFIX:{TAG}:ID. Redis Cluster keeps the names of one tag on one server. A user's tag is
its own, and items share TAGS tags, so that a request for many items is few commands.
"""

from __future__ import annotations

import binascii
import functools
import hashlib
from collections.abc import Sequence

from service.state.engine import Key, Kind, Value, encode_id

TAGS = 64
LETTERS: dict[Kind, bytes] = {"user": b"u", "item": b"i", "load": b"l"}
# Writes a value unless another writer was faster. The old value is named by its digest, so that
# it need not be sent.
COMPARE_AND_SET = """
local old = redis.call('GET', KEYS[1])
local digest = old and redis.sha1hex(old) or ''
if digest ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3]) end
return 1
"""


def name_of(key: Key, prefix: bytes) -> bytes:
    """Return the name of an entity. Raises EntityError for an id that no engine can keep."""
    return names_of([key], prefix)[0]


def names_of(keys: Sequence[Key], prefix: bytes) -> list[bytes]:
    """Return the names of entities, as `name_of` does."""
    tags, names = _item_tags(prefix), []
    for key in keys:
        item = encode_id(key)
        if key.kind == "item":
            names.append(tags[binascii.crc32(item) % TAGS] + item)
        else:
            names.append(b"%b:{%b%b}" % (prefix, LETTERS[key.kind], item))
    return names


@functools.cache
def _item_tags(prefix: bytes) -> Sequence[bytes]:
    """Return the start of an item's name for each tag."""
    return [b"%b:{%b%02x}:" % (prefix, LETTERS["item"], tag) for tag in range(TAGS)]


def id_of(name: bytes, kind: Kind, prefix: bytes) -> str:
    """Return the id in the name of an entity."""
    start = len(prefix) + 3  # the colon, the brace and the letter
    item = name[start + 4 :] if kind == "item" else name[start:-1]
    return item.decode("utf-8", "replace")


def pattern_of(kind: Kind, prefix: bytes) -> bytes:
    """Return the pattern of SCAN for all entities of a kind."""
    return prefix + b":{" + LETTERS[kind] + b"*"


def set_arguments(name: bytes, value: Value) -> tuple[bytes | int, ...]:
    """Return the arguments of SET for a value."""
    if value.expires_at is None:
        return name, value.blob
    return name, value.blob, b"PXAT", max(1, value.expires_at)


def compare_arguments(name: bytes, old: bytes | None, value: Value) -> tuple[bytes | int, ...]:
    """Return the arguments of the script COMPARE_AND_SET."""
    digest = b"" if old is None else hashlib.sha1(old, usedforsecurity=False).hexdigest().encode()
    expires_at = b"" if value.expires_at is None else max(1, value.expires_at)
    return name, digest, value.blob, expires_at
