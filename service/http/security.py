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

MIN_KEY = 16  # characters
LOOK_S = 1.0  # how often a file of keys is looked at for changes
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
        self._stamp = self._told = (
            self._stamped()
        )  # before the reading: a change beside it is seen later
        self._known = read_keys(path)
        self._looked = clock()

    def client(self, authorization: str | None) -> str:
        """Whose key `Authorization: Bearer KEY` holds. Raises Unauthorized or Forbidden."""
        self._look()
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("the header Authorization: Bearer KEY is required")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, known in self._known:  # all of them: where it stops would tell which
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise Forbidden("the key is not known here")
        return found

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        try:
            self._known = read_keys(self._path)
        except KeysError as error:  # half written, perhaps; looked at again in a second
            if stamp != self._told:
                logger.warning("%s; the keys that were known stay", error)
            self._told = stamp
            return
        self._stamp = self._told = stamp

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_keys(path: Path) -> list[tuple[str, bytes]]:
    """Names and digests. Blank lines and lines that begin with # say nothing. Raises KeysError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise KeysError(f"{path}: cannot be read ({reason})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, key = (part.strip() for part in line.partition(":"))
        if not separator or not name or len(key) < MIN_KEY or not key.isascii():
            rule = f"NAME:KEY with a key of {MIN_KEY} ASCII characters or more"
            raise KeysError(f"{path}:{number}: {rule}")
        found.append((name, hashlib.sha256(key.encode()).digest()))
    if not found:
        raise KeysError(f"{path}: no key in it")
    return found


class Quota:
    """A token bucket for each client: `rps` lists a second, BURST_S seconds' worth at once."""

    def __init__(self, rps: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rps, self._clock = rps, clock
        self._most = max(1.0, rps * BURST_S)
        self._left: dict[str, tuple[float, float]] = {}

    def spend(self, client: str, lists: int) -> None:
        """Take what a call of so many lists costs. Raises QuotaExceeded, taking nothing.

        More lists than a burst holds are let through when the bucket is full, and paid off later.
        """
        now = self._clock()
        tokens, at = self._left.get(client, (self._most, now))
        tokens = min(self._most, tokens + (now - at) * self._rps)
        needed = min(lists, self._most)
        if tokens < needed:
            self._left[client] = tokens, now
            wait = math.ceil((needed - tokens) / self._rps)
            raise QuotaExceeded(f"more than {self._rps:g} lists a second", wait)
        self._left[client] = tokens - lists, now
