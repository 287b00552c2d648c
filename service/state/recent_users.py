"""Users of recent lookups, decoded once per change."""

from __future__ import annotations

from collections import OrderedDict

from service.state.entities import User

KEPT_BYTES = 4 << 20  # of blobs; a decoded user takes about ten times as much


class RecentUsers:
    """The users that were read last, by id, each with the bytes that it was decoded from.

    One thread may use it. No caller may change a user.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        """max_bytes: limit of the blobs."""
        self._max_bytes, self._bytes = max_bytes, 0
        self._entries: OrderedDict[str, tuple[bytes, User]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def user(self, user_id: str, blob: bytes) -> User:
        """Return the user of a blob. Raises EntityError for bytes that no store has written."""
        entry = self._entries.get(user_id)
        if entry is not None and entry[0] == blob:
            self._entries.move_to_end(user_id)
            return entry[1]
        self.forget(user_id)
        user = User.from_blob(blob)
        self._entries[user_id] = blob, user
        self._bytes += len(blob)
        while self._bytes > self._max_bytes:
            _, (oldest, _) = self._entries.popitem(last=False)
            self._bytes -= len(oldest)
        return user

    def forget(self, user_id: str) -> None:
        """Drop a user that the store lacks."""
        entry = self._entries.pop(user_id, None)
        if entry is not None:
            self._bytes -= len(entry[0])
