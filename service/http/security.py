"""Who may ask, and how much: API keys from a file, and a quota for each."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from service.errors import Forbidden, QuotaExceeded, Unauthorized

logger = logging.getLogger("service")

MIN_KEY_LENGTH = 16  # characters
CHECK_INTERVAL_S = 1.0  # how often a file of keys is looked at for changes
BURST_S = 2.0


class KeysError(ValueError):
    """A file of keys that cannot be used; the message never holds a key."""


class Keys:
    """Lines NAME:KEY; several keys may have one name, so that one can replace the other in peace.

    Keys are kept and compared as SHA-256 digests, each with each in constant time, so that neither
    a core dump nor a clock tells one. Raises KeysError at the start; a file that breaks later
    leaves the keys as they were.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._loaded_stamp = self._seen_stamp = (
            self._file_stamp()
        )  # before the reading: a change beside it is seen later
        self._digests = read_keys(path)
        self._checked_at = clock()

    def client(self, authorization: str | None) -> str:
        """Whose key `Authorization: Bearer KEY` holds. Raises Unauthorized or Forbidden."""
        self._reload_if_changed()
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("the header Authorization: Bearer KEY is required")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        client = None
        for name, expected in self._digests:  # all of them: where it stops would tell which
            if hmac.compare_digest(digest, expected):
                client = name
        if client is None:
            raise Forbidden("the key is not known here")
        return client

    def _reload_if_changed(self) -> None:
        now = self._clock()
        if now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        stamp = self._file_stamp()
        if stamp == self._loaded_stamp:
            return
        try:
            self._digests = read_keys(self._path)
        except KeysError as error:  # half written, perhaps; looked at again in a second
            if stamp != self._seen_stamp:
                logger.warning("%s; the keys that were known stay", error)
            self._seen_stamp = stamp
            return
        self._loaded_stamp = self._seen_stamp = stamp

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def read_keys(path: Path) -> list[tuple[str, bytes]]:
    """Names and digests. Blank lines and lines that begin with # say nothing. Raises KeysError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise KeysError(f"{path}: cannot be read ({reason})") from None
    digests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, key = (part.strip() for part in line.partition(":"))
        if not separator or not name or len(key) < MIN_KEY_LENGTH or not key.isascii():
            rule = f"NAME:KEY with a key of {MIN_KEY_LENGTH} ASCII characters or more"
            raise KeysError(f"{path}:{number}: {rule}")
        digests.append((name, hashlib.sha256(key.encode()).digest()))
    if not digests:
        raise KeysError(f"{path}: no key in it")
    return digests


class Quota:
    """A token bucket for each client: `rps` lists a second, BURST_S seconds' worth at once."""

    def __init__(self, rps: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rps, self._clock = rps, clock
        self._burst = max(1.0, rps * BURST_S)
        self._buckets: dict[str, tuple[float, float]] = {}

    def spend(self, client: str, lists: int) -> None:
        """Take what a call of so many lists costs. Raises QuotaExceeded, taking nothing.

        More lists than a burst holds are let through when the bucket is full, and paid off later.
        """
        now = self._clock()
        tokens, updated_at = self._buckets.get(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - updated_at) * self._rps)
        required = min(lists, self._burst)
        if tokens < required:
            self._buckets[client] = tokens, now
            wait_s = math.ceil((required - tokens) / self._rps)
            raise QuotaExceeded(f"more than {self._rps:g} lists a second", wait_s)
        self._buckets[client] = tokens - lists, now
