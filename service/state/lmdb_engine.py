"""Entities in an LMDB file: embedded, shared by the processes of one host, durable per commit.

Each kind has a named database, whose keys are ids in UTF-8. A value is the time of expiry in ms
(uint64, little-endian, 0 for never) followed by the blob. Marks of events have one of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

import lmdb

from service.engine.contract import Integers
from service.engine.features.recent_items import RecentItems
from service.state.engine import (
    KEEP_EXPIRY,
    KINDS,
    SCAN_BATCH,
    WINDOW_S,
    Change,
    Health,
    Key,
    Kind,
    Value,
    change_in_order,
    encode_id,
    now_ms,
    places_by_key,
)
from service.state.errors import EngineError, StateFull, StateReplaced, StateUnavailable
from service.state.lmdb_marks import Marks

DATA, USE, COMPACTING = "data.mdb", "use.lock", "compacting"
EXPIRY = struct.Struct("<Q")
NEVER = EXPIRY.pack(0)
NONE = repeat(None)
MAX_READERS = 2048  # slots of processes times threads
GIB = 1 << 30


class LmdbEngine:
    """An LMDB environment in a directory of its own. Readers never wait for the one writer.

    An owner may drop an engine while threads use it: it is released with the last of them.
    """

    name = "lmdb"

    def __init__(
        self,
        directory: Path,
        max_bytes: int = 64 * GIB,
        clock: Callable[[], int] = now_ms,
        window_s: float = WINDOW_S,
    ) -> None:
        """Open the environment, or create it.

        Args:
            directory: of the files; it is created with access for its owner alone.
            max_bytes: the file grows up to this size; only the part in use takes disk and memory.
            clock: returns the time in ms since 1970 UTC.
            window_s: for which marks are kept.

        Raises StateUnavailable.
        """
        self._directory, self._max_bytes, self._clock = directory, max_bytes, clock
        self._window_s = window_s
        self._opening = threading.Lock()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._use = _hold(directory / USE, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._release = weakref.finalize(self, os.close, self._use)
        except BlockingIOError:
            raise StateUnavailable(f"{directory}: is being compacted; try again later") from None
        except OSError as error:
            raise StateUnavailable(f"{directory}: cannot be opened ({error.strerror})") from None
        try:
            self._open()
        except BaseException:
            self._release()
            raise

    def _open(self) -> None:
        self._environment = open_environment(self._directory, self._max_bytes)
        try:
            with self._opening, _errors(self._directory):
                check_size(self._environment, self._directory)
                self._environment.reader_check()  # slots of killed processes keep old pages
                self._databases = {kind: self._environment.open_db(kind.encode()) for kind in KINDS}
                self._marks = Marks(self._environment, self._window_s)
                self._identity = _identity(self._directory)
        except BaseException:
            self._environment.close()
            raise

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        now, databases = self._clock(), self._databases
        encoded = [encode_id(key) for key in keys]
        with _errors(self._directory), self._environment.begin() as transaction:
            values = [
                transaction.get(item, db=databases[key.kind])
                for key, item in zip(keys, encoded, strict=True)
            ]
        return [live(value, now) for value in values]

    def read(
        self, users: Sequence[str], items: Sequence[str], handles: Integers, recent: RecentItems
    ) -> list[bytes | None]:
        """Return the blobs of users, None for an absent one, and read items into `recent`.

        Nothing is read that `recent` has as of the last commit. Ids must have at most MAX_ID_BYTES.
        Raises EngineError.
        """
        kinds, stale = self._databases, list[int]()
        try:
            # The number of the last commit needs no transaction, which takes most of a lookup.
            if self._environment.info()["last_txnid"] == recent.version:
                kept = list(map(recent.users.get, users))
                if None not in kept and not recent.stale(handles):
                    return kept
            now = self._clock()
            with self._environment.begin() as transaction:
                get, version = transaction.get, transaction.id()
                if version != recent.version:
                    recent.outdate()
                    recent.version = version
                of_users = list(map(get, map(str.encode, users), NONE, repeat(kinds["user"])))
                stale = recent.stale(handles)
                if stale:
                    ids = map(str.encode, map(items.__getitem__, stale))
                    of_items = list(map(get, ids, NONE, repeat(kinds["item"])))
        except (lmdb.Error, OSError):
            with _errors(self._directory):
                raise
        if stale:
            read = handles[stale].tolist()
            recent.put(read, live_of(of_items, now))
            if ends := [h for h, value in zip(read, of_items, strict=True) if expires(value)]:
                recent.outdate(ends)  # no commit tells when one of them expires
        blobs = live_of(of_users, now)
        recent.bytes_read += sum(map(len, filter(None, blobs)))
        recent.keep_users(
            {
                user: blob
                for user, blob, value in zip(users, blobs, of_users, strict=True)
                if blob is not None and not expires(value)
            }
        )
        return blobs

    def put_many(self, entries: Sequence[tuple[Key, Value]]) -> None:
        encoded = [(encode_id(key), key.kind, packed(value)) for key, value in entries]
        with _errors(self._directory), self._environment.begin(write=True) as transaction:
            for item, kind, value in encoded:
                transaction.put(item, value, db=self._databases[kind])
        self._check_file()

    def update_many(
        self, keys: Sequence[Key], change: Change, once: Sequence[bytes | None] | None = None
    ) -> list[bool]:
        places, made = places_by_key(keys, once)
        encoded = {key: encode_id(key) for key in places}
        with _errors(self._directory), self._environment.begin(write=True) as transaction:
            now = self._clock()
            if once is not None:
                marks = {mark for mark in once if mark is not None}
                kept = self._marks.add(transaction, marks, now)
                for place, mark in enumerate(once):
                    made[place] = made[place] and mark not in kept
            for key, item in encoded.items():
                database = self._databases[key.kind]
                old = transaction.get(item, db=database)
                blob = live(old, now)
                remaining = [place for place in places[key] if made[place]]
                value = change_in_order(remaining, blob, change)
                if value is None:
                    continue
                if value.expires_at == KEEP_EXPIRY:
                    expiry = NEVER if old is None or blob is None else old[: EXPIRY.size]
                    transaction.put(item, expiry + value.blob, db=database)
                else:
                    transaction.put(item, packed(value), db=database)
        self._check_file()
        return made

    def delete(self, keys: Sequence[Key]) -> int:
        now, deleted = self._clock(), 0
        encoded = [encode_id(key) for key in keys]
        with _errors(self._directory), self._environment.begin(write=True) as transaction:
            for key, item in zip(keys, encoded, strict=True):
                value = transaction.pop(item, db=self._databases[key.kind])
                deleted += live(value, now) is not None
        self._check_file()
        return deleted

    def _check_file(self) -> None:
        """Raise StateReplaced if the directory has another file than the one that is open.

        Checked after a commit: one to a file that was removed before must not be acknowledged.
        """
        if _identity(self._directory) != self._identity:
            raise StateReplaced(
                f"{self._directory / DATA}: was removed or replaced; the service opens it anew"
            )

    def scan(self, kind: Kind) -> Iterator[list[tuple[str, Value]]]:
        last = b""
        while True:
            # A transaction for each batch: a long one would keep the pages of all later writes.
            entries, last = self._batch(kind, last)
            if entries:
                yield entries
            if not last:
                return

    def _batch(self, kind: Kind, after: bytes) -> tuple[list[tuple[str, Value]], bytes]:
        """Return entities behind a key, and the last key, empty at the end."""
        now, entries, count = self._clock(), [], 0
        with _errors(self._directory), self._environment.begin() as transaction:
            cursor = transaction.cursor(self._databases[kind])
            if not (cursor.set_range(after + b"\0") if after else cursor.first()):
                return [], b""
            for item, value in cursor.iternext():
                count += 1
                blob = live(value, now)
                if blob is not None:
                    expires_at = EXPIRY.unpack_from(value)[0] or None
                    entries.append(
                        (bytes(item).decode("utf-8", "replace"), Value(blob, expires_at))
                    )
                if count == SCAN_BATCH:
                    return entries, bytes(item)
        return entries, b""

    def health(self) -> Health:
        self._check_file()
        with _errors(self._directory), self._environment.begin() as transaction:
            entities: dict[str, int] = {
                kind: transaction.stat(self._databases[kind])["entries"]
                for kind in KINDS
                if kind != "load"
            }
            size = (self._directory / DATA).stat().st_size
            limit = min(self._max_bytes, size + shutil.disk_usage(self._directory).free)
        notes = []
        if size > 0.9 * limit:
            notes.append(f"the file has {size} of at most {limit} bytes")
        return Health(entities, size, durable=True, notes=notes, limit=limit)

    def compact(self) -> None:
        """Copy every live entity into a new file and put it in the place of the old one.

        A copy by LMDB itself would keep the unused bytes of each page. Raises StateUnavailable if
        another process uses the store.
        """
        directory, copy = self._directory, self._directory / COMPACTING
        try:
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateUnavailable(
                f"{directory}: another process uses the store; stop it before a compaction"
            ) from None
        try:
            shutil.rmtree(copy, ignore_errors=True)
            target = LmdbEngine(copy, self._max_bytes, self._clock, self._window_s)
            try:
                for kind in KINDS:
                    for entries in self.scan(kind):
                        target.put_many([(Key(kind, item), value) for item, value in entries])
                with _errors(copy):
                    self._marks.copy_to(target._marks, self._clock())
            finally:
                target.close()
            self._environment.close()
            with _errors(directory):
                os.replace(copy / DATA, directory / DATA)
                sync_directory(directory)
            shutil.rmtree(copy, ignore_errors=True)
            self._open()
        finally:
            fcntl.flock(self._use, fcntl.LOCK_SH)

    def close(self) -> None:
        self._environment.close()
        self._release()


def open_environment(directory: Path, max_bytes: int) -> lmdb.Environment:
    """Return an open environment. Raises StateUnavailable."""
    with _errors(directory):
        return lmdb.Environment(
            str(directory),
            map_size=max_bytes,
            mode=0o600,
            max_dbs=len(KINDS) + 1,  # and the marks
            max_readers=MAX_READERS,
            max_spare_txns=4,
            readahead=False,  # entities are read at random
        )


def check_size(environment: lmdb.Environment, directory: Path) -> None:
    """Raise StateUnavailable for a file that lacks pages: reading them would kill the process."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (directory / DATA).stat().st_size
    if size < expected:
        raise StateUnavailable(
            f"{directory / DATA}: has {size} bytes of {expected}, so it was cut off; restore a "
            "backup, or remove the directory to begin with an empty store"
        )


def live(value: bytes | None, now: int) -> bytes | None:
    """Return the blob of a value, None if it has expired or holds no time of expiry."""
    if value is None or len(value) < EXPIRY.size:
        return None
    expires_at = EXPIRY.unpack_from(value)[0]
    return None if expires_at and expires_at <= now else value[EXPIRY.size :]


def live_of(values: Sequence[bytes | None], now: int) -> list[bytes | None]:
    """Return the blob of each value, as `live` does."""
    return [
        value[EXPIRY.size :] if value and value[: EXPIRY.size] == NEVER else live(value, now)
        for value in values
    ]


def expires(value: bytes | None) -> bool:
    """True for a value that has a time of expiry."""
    return value is not None and not value.startswith(NEVER)


def packed(value: Value) -> bytes:
    """Return the value as LMDB keeps it."""
    return EXPIRY.pack(max(1, value.expires_at) if value.expires_at is not None else 0) + value.blob


def sync_directory(directory: Path) -> None:
    """Make a rename in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hold(path: Path, lock: int) -> int:
    """Return the descriptor of a file with a lock, which its close releases. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, lock)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _identity(directory: Path) -> tuple[int, int] | None:
    """Return device and inode of the data file, None if there is none."""
    try:
        status = (directory / DATA).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _errors(directory: Path) -> Iterator[None]:
    """Raise LMDB's errors as those of the store."""
    try:
        yield
    except lmdb.MapFullError:
        raise StateFull(
            f"{directory}: the store has reached its largest size; raise RERANK_STATE_MAX_GB, or "
            "delete entities"
        ) from None
    except lmdb.MapResizedError:
        raise StateUnavailable(
            f"{directory}: another process opened the store with a larger RERANK_STATE_MAX_GB; "
            "start all with the same"
        ) from None
    except lmdb.DiskError as error:
        raise StateFull(f"{directory}: the disk is full ({error})") from None
    except lmdb.Error as error:
        text = str(error)
        if "No space left" in text or "Disk quota" in text:
            raise StateFull(f"{directory}: the disk is full ({text})") from None
        raise StateUnavailable(f"{directory}: {text}") from None
    except OSError as error:
        raise EngineError(f"{directory}: {error.strerror}") from None
