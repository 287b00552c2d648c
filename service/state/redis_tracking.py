"""Items of Redis that a worker need not read again, because the server names those that change.

A connection of RESP3 has one stream for the responses of the server and for its messages that a key
has changed, and the server writes to it in the order in which it runs commands. So once a response
has arrived, the messages of all changes before its command have arrived too: an item without one is
as fresh as if the command had read it, whichever instance changes it. Every lookup has a command:
it reads its users, or is a PING. Messages and responses are taken in the order of the stream.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis
from redis.exceptions import ConnectionError as LostConnection

from service.engine.contract import Integers
from service.engine.features.recent_items import RecentItems
from service.state.address import Address
from service.state.redis_connection import Connection, Take, Waiting, late, packed, settle
from service.state.redis_keys import id_of, names_of_lookup

Blobs = list[bytes | None]

# Servers with threads of their own, and another order of messages and responses.
UNORDERED = b"dragonfly", b"keydb", b"garnet"
# Earlier ones put a message inside the response to an MGET that finds an expired key.
FIRST_VERSION = 7
TRACK_NEXT = packed("CLIENT", "CACHING", "YES")  # the keys of the next command, those of items
PING = packed("PING")
ENDLESS = (-1, -2)  # PTTL of a key that does not expire, and of one that does not exist
# Items are read again after so many seconds, because SWAPDB changes keys without a message.
KEPT_S = 60.0


class TrackedItems:
    """The items that one connection has read, and the messages about them."""

    def __init__(self, connection: Connection, recent: RecentItems, address: Address) -> None:
        """recent: is written for no other connection."""
        self.connection, self.recent = connection, recent
        self._address, self._prefix = address, address.prefix.encode()
        self._since, self._broken = time.monotonic(), False
        connection.on_push = self._take_message

    @classmethod
    async def start(
        cls, connection: Connection, recent: RecentItems, address: Address
    ) -> TrackedItems:
        """Have the server track the items that a connection reads.

        Raises ResponseError if it cannot, or does not keep the order; other errors of redis-py.
        """
        about = (await connection.call("INFO", "server")).lower()
        version = re.search(rb"redis_version:(\d+)", about)
        early = version is None or int(version[1]) < FIRST_VERSION
        if early or any(name in about for name in UNORDERED):
            raise redis.ResponseError("messages and responses have no common order")
        tracked = cls(connection, recent, address)
        await connection.call("HELLO", "3")
        await connection.call("CLIENT", "TRACKING", "ON", "OPTIN")
        await connection.call("CLIENT", "CACHING", "YES")
        return tracked

    def outdate_old(self) -> None:
        """Outdate all items from time to time."""
        if time.monotonic() - self._since > KEPT_S:
            self._since = time.monotonic()
            self.recent.outdate()

    async def read(
        self, users: Sequence[str], items: Sequence[str], handles: Integers, budget_s: float
    ) -> tuple[Blobs, Integers]:
        """Return the blobs of users, read the items that are not fresh, and return all handles.

        handles: of the items before. Raises errors of redis-py, or StateTimeout.
        """
        recent, ends = self.recent, time.monotonic() + budget_s
        drops, stale = recent.drops, recent.stale(handles)
        read = set(stale)  # places of the items that this lookup has read
        blobs = await self._request(users, [items[place] for place in stale], budget_s)
        while True:
            if recent.drops != drops:  # meanwhile handles may have come to stand for other items
                handles, drops = recent.find(items), recent.drops
                read.clear()
            # Of those that were read some may have changed since, or expire.
            stale = [place for place in recent.stale(handles) if place not in read]
            if not stale:
                return blobs, handles
            read.update(stale)
            await self._request((), [items[place] for place in stale], ends - time.monotonic())

    async def _request(self, users: Sequence[str], items: Sequence[str], budget_s: float) -> Blobs:
        """Return the blobs of users, and read items into `recent`."""
        waiting: Waiting[Any] = Waiting(budget_s, lambda: late(self._address, budget_s))
        commands, takes = b"", list[Take]()
        if items:
            names = names_of_lookup((), items, self._prefix)
            commands = TRACK_NEXT + packed("MGET", *names)
            commands += b"".join([packed("PTTL", name) for name in names])
            takes = [
                partial(self._take_promise, waiting.future),
                partial(self._take_items, waiting.future, items),
                *(partial(self._take_expiry, item) for item in items),
            ]
        last = packed("MGET", *names_of_lookup(users, (), self._prefix)) if users else PING
        self.connection.send(commands + last, *takes, partial(settle, waiting.future))
        response = await waiting.response()
        return response if users else []

    def _take_promise(self, waiting: asyncio.Future[Any], value: Any) -> None:
        if isinstance(value, Exception):  # the server will not name the items of the next command
            self._broken = True
            settle(waiting, LostConnection(str(value)))
            self.connection.abort()

    def _take_items(self, waiting: asyncio.Future[Any], items: Sequence[str], value: Any) -> None:
        if isinstance(value, Exception):
            settle(waiting, value)
        elif not self._broken:
            self.recent.put(self.recent.find(items).tolist(), value)

    def _take_expiry(self, item: str, value: Any) -> None:
        """Let an item that expires be read with every lookup: the server may name it late."""
        if value not in ENDLESS:
            self.recent.outdate_ids([item])

    def _take_message(self, message: Sequence[Any]) -> None:
        if message[0] != b"invalidate":
            return
        if message[1] is None:  # all keys were deleted
            self.recent.outdate()
        else:
            self.recent.outdate_ids([id_of(name, "item", self._prefix) for name in message[1]])
