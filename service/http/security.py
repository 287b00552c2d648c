"""API keys from a file, and a quota of lists per second for each client."""

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
CHECK_INTERVAL_S = 1.0  # between looks for a changed key file
BURST_S = 2.0  # a quota may be spent this many seconds ahead


class KeysError(ValueError):
    """A key file cannot be used. The message never contains a key."""


class Keys:
    """The keys of a file with lines NAME:KEY, reloaded when the file changes.

    Several keys may share a name, so that a key can be replaced without an interruption. Only
    SHA-256 digests are kept, and every comparison takes constant time: neither a core dump nor
    response times reveal a key. A file that becomes invalid later leaves the loaded keys in place.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Load the file. Raises KeysError."""
        self._path, self._clock = path, clock
        # Taken before the file is read: a change in between is then noticed at the next look.
        self._loaded_stamp = self._seen_stamp = self._file_stamp()
        self._digests = read_keys(path)
        self._checked_at = clock()

    def client(self, authorization: str | None) -> str:
        """Return the name of the key in `Bearer KEY`. Raises Unauthorized or Forbidden."""
        self._reload_if_changed()
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("header Authorization: missing, send Authorization: Bearer KEY")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        client = None
        for name, expected in self._digests:  # no early exit: its time would tell which key matched
            if hmac.compare_digest(digest, expected):
                client = name
        if client is None:
            raise Forbidden("header Authorization: the key is not valid")
        return client

    def _reload_if_changed(self) -> None:
        now = self._clock()
        if now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        stamp = self._file_stamp()
        if stamp != self._loaded_stamp:
            self._read(stamp, quiet=stamp == self._seen_stamp)

    def reload(self) -> None:
        """Read the file now, changed or not; an unusable one leaves the loaded keys in place."""
        self._read(self._file_stamp(), quiet=False)

    def _read(self, stamp: tuple[int, int, int] | None, quiet: bool) -> None:
        try:
            self._digests = read_keys(self._path)
        except KeysError as error:  # perhaps half written; checked again later
            if not quiet:
                logger.warning("%s; the keys loaded before stay valid", error)
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
    """Return names and digests, skipping blank lines and lines that begin with #.

    Raises KeysError.
    """
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
            rule = f"NAME:KEY with a key of at least {MIN_KEY_LENGTH} ASCII characters"
            raise KeysError(f"{path}:{number}: expected {rule}")
        digests.append((name, hashlib.sha256(key.encode()).digest()))
    if not digests:
        raise KeysError(f"{path}: contains no key, add a line NAME:KEY")
    return digests


class Quota:
    """A token bucket per client: `rps` lists per second, in bursts of BURST_S seconds."""

    def __init__(self, rps: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rps, self._clock = rps, clock
        self._burst = max(1.0, rps * BURST_S)
        self._buckets: dict[str, tuple[float, float]] = {}

    def spend(self, client: str, lists: int) -> None:
        """Take a token per list. Raises QuotaExceeded and takes nothing if there are too few.

        A call with more lists than a burst passes if the bucket is full; it leaves a debt.
        """
        now = self._clock()
        tokens, updated_at = self._buckets.get(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - updated_at) * self._rps)
        required = min(lists, self._burst)
        if tokens < required:
            self._buckets[client] = tokens, now
            wait_s = math.ceil((required - tokens) / self._rps)
            raise QuotaExceeded(
                f"quota: {self._rps:g} lists per second exceeded, retry in {wait_s} s", wait_s
            )
        self._buckets[client] = tokens - lists, now
