"""Names of entities in Redis, and the commands that read and write them, for any client.

A name is PREFIX:{TAG}:ID. Redis Cluster keeps the names of one tag on one server. A user's tag is
its own, and items share TAGS tags, so that a request for many items is few commands.
"""

from __future__ import annotations

import functools
import hashlib
from binascii import crc32
from collections.abc import Collection, Sequence

from service.state.engine import KEEP_EXPIRY, MARK_BYTES, Key, Kind, Value, encode_id

TAGS = 64
LETTERS: dict[Kind, bytes] = {"user": b"u", "item": b"i", "load": b"l"}
# Writes a value unless another writer was faster, which gives 0, or a mark is kept, which gives the
# marks that are. The old value is named by its digest, so that it need not be sent. Marks are a
# sorted set by the time at which they end; a write removes more of those that ended than it adds.
COMPARE_AND_SET = """
local old = redis.call('GET', KEYS[1])
local digest = old and redis.sha1hex(old) or ''
local kept = {}
for place = 6, #ARGV do
  local ends = redis.call('ZSCORE', KEYS[2], ARGV[place])
  if ends and tonumber(ends) > tonumber(ARGV[4]) then kept[#kept + 1] = ARGV[place] end
end
if #kept > 0 then return kept end
if digest ~= ARGV[1] then return 0 end
if ARGV[3] == 'none' then
elseif ARGV[3] == 'keep' then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
elseif ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3]) end
if #ARGV > 5 then
  local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[4], 'LIMIT', 0,
    math.min(2 * #ARGV, 2000))
  if #ended > 0 then redis.call('ZREM', KEYS[2], unpack(ended)) end
  for place = 6, #ARGV do redis.call('ZADD', KEYS[2], ARGV[5], ARGV[place]) end
  redis.call('PEXPIREAT', KEYS[2], ARGV[5])
end
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
            names.append(tags[crc32(item) % TAGS] + item)
        else:
            names.append(b"%b:{%b%b}" % (prefix, LETTERS[key.kind], item))
    return names


def names_of_lookup(users: Collection[str], items: Collection[str], prefix: bytes) -> list[bytes]:
    """Return the names of users, then those of items, in half the time of `names_of`.

    No id is checked.
    """
    tags = _item_tags(prefix)
    names = [b"%b:{u%b}" % (prefix, user.encode()) for user in users]
    encoded = list(map(str.encode, items))
    names += [
        tags[crc % TAGS] + item for crc, item in zip(map(crc32, encoded), encoded, strict=True)
    ]
    return names


@functools.cache
def _item_tags(prefix: bytes) -> Sequence[bytes]:
    """Return the start of an item's name for each tag."""
    return [b"%b:{%b%02x}:" % (prefix, LETTERS["item"], tag) for tag in range(TAGS)]


def marks_name(name: bytes, kind: Kind) -> bytes:
    """Return the name of the marks of the entity with a name: of each user, and of each tag.

    No entity has such a name: the name of a user ends with }, and that of an item has :.
    """
    return name[: name.index(b"}") + 1] + b"!" if kind == "item" else name + b"!"


def mark_of(name: bytes, kind: Kind, mark: bytes) -> bytes:
    """Return the mark as the marks of the entity with a name have it.

    Items of one tag share their marks, and one event may change several of them.
    """
    if kind != "item":
        return mark
    return hashlib.blake2b(name, key=mark, digest_size=MARK_BYTES).digest()


def id_of(name: bytes, kind: Kind, prefix: bytes) -> str:
    """Return the id in the name of an entity."""
    start = len(prefix) + 3  # the colon, the brace and the letter
    item = name[start + 4 :] if kind == "item" else name[start:-1]
    return item.decode("utf-8", "replace")


def pattern_of(kind: Kind, prefix: bytes) -> bytes:
    """Return the pattern of SCAN for all entities of a kind."""
    tag = b"[0-9a-f][0-9a-f]}:*" if kind == "item" else b"*}"
    return prefix + b":{" + LETTERS[kind] + tag


def set_arguments(name: bytes, value: Value) -> tuple[bytes | int, ...]:
    """Return the arguments of SET for a value."""
    if value.expires_at is None:
        return name, value.blob
    return name, value.blob, b"PXAT", max(1, value.expires_at)


def compare_arguments(
    names: tuple[bytes, bytes],
    old: bytes | None,
    value: Value | None,
    marks: Sequence[bytes],
    now: int,
    window_ms: int,
) -> tuple[bytes | int, ...]:
    """Return the arguments of the script COMPARE_AND_SET.

    Args:
        names: of the entity, and of its marks.
        old: the value that was read.
        value: the new one; None leaves it, and only keeps the marks.
        marks: each is kept until the window is over.
        now: time in ms since 1970 UTC.
        window_ms: for which marks are kept.
    """
    digest = b"" if old is None else hashlib.sha1(old, usedforsecurity=False).hexdigest().encode()
    expiry: bytes | int = b"none"
    if value is not None:
        expiry = b"keep" if value.expires_at == KEEP_EXPIRY else b""
        if value.expires_at is not None and value.expires_at != KEEP_EXPIRY:
            expiry = max(1, value.expires_at)
    blob = b"" if value is None else value.blob
    return *names, digest, blob, expiry, now, now + window_ms, *marks
