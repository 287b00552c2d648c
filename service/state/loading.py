"""Load entities from files into a store, and dump a store into a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import ormsgpack
from tqdm import tqdm

from service.state.engine import Engine, Key, Kind, Value, now_ms
from service.state.entities import UNKNOWN_SCHEMA
from service.state.errors import EntityError
from service.state.files import (
    STANDARD,
    Format,
    encode_record,
    open_file,
    read_payloads,
)
from service.state.records import Record, parse_record, record_of
from service.state.schema_check import SchemaCheck

BATCH = 5000  # entities per commit
PROGRESS_MS = 7 * 24 * 3600 * 1000  # an interrupted load can resume for so long


@dataclass
class Loaded:
    """Counts of a load: entities written, bad records, and records that an earlier run had done."""

    entities: int = 0
    bad: int = 0
    resumed: int = 0


@dataclass(frozen=True)
class LoadOptions:
    """The options of a load.

    limit         most answers that a user keeps
    check         refuses records that break the schema of a bundle; None: values are only checked
                  when they are read
    report_bad    is called with the message of each bad record; None: the first one ends the load
    resume        go on where an interrupted load of the same file has stopped
    """

    limit: int
    form: Format
    check: SchemaCheck | None = None
    report_bad: Callable[[str], None] | None = None
    resume: bool = True


def load(engine: Engine, path: Path, options: LoadOptions) -> Loaded:
    """Merge the records of a file into a store, BATCH at a time; loading a file twice is harmless.

    Raises EntityError naming file, record and field, EngineError, OSError or EOFError.
    """
    progress = None if path == STANDARD else Key("load", _digest(path))
    loaded = Loaded()
    if progress is not None and options.resume:
        loaded.resumed = _done(engine.get_many([progress])[0])
    stream, raw = open_file(path, "rb")
    size = None if path == STANDARD else path.stat().st_size
    with (
        raw,
        stream,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"load {path.name}", disable=None) as bar,
    ):
        records = _records(stream, path, options, loaded)
        while batch := list(islice(records, BATCH)):
            _write(engine, [record for _, record in batch], options)
            loaded.entities += len(batch)
            if progress is not None:
                engine.put_many([(progress, _progress(batch[-1][0]))])
                bar.update(raw.tell() - bar.n)
    if progress is not None:
        engine.delete([progress])
    return loaded


def _records(
    stream: IO[bytes], path: Path, options: LoadOptions, loaded: Loaded
) -> Iterator[tuple[int, Record]]:
    """Yield the number and value of each good record."""
    try:
        for number, payload, error in read_payloads(stream, options.form, loaded.resumed):
            try:
                if error is not None:
                    raise error
                record = parse_record(payload)
                if options.check is not None:
                    options.check(record)
                record.pack(options.limit)
            except EntityError as refusal:
                message = f"{path}:{number}: {refusal}"
                if options.report_bad is None:
                    raise EntityError(
                        f"{path}:{number}: {refusal.field}", refusal.rule, refusal.value
                    ) from None
                loaded.bad += 1
                options.report_bad(message)
                continue
            yield number, record
    except EOFError as error:
        raise EntityError(str(path), "a complete gzip file", str(error)) from None


def _write(engine: Engine, records: Sequence[Record], options: LoadOptions) -> None:
    now, limit = now_ms(), options.limit
    fingerprint = UNKNOWN_SCHEMA if options.check is None else options.check.fingerprint

    def merged(place: int, blob: bytes | None) -> Value:
        return records[place].merged(blob, now, limit, fingerprint)

    engine.update_many([record.key for record in records], merged)


def _digest(path: Path) -> str:
    """Return a name for the content of a file: its path, size and time of change."""
    status = path.stat()
    text = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _progress(number: int) -> Value:
    return Value(ormsgpack.packb(number), now_ms() + PROGRESS_MS)


def _done(blob: bytes | None) -> int:
    try:
        number = 0 if blob is None else ormsgpack.unpackb(blob)
    except ValueError:
        return 0
    return number if type(number) is int else 0


@dataclass
class Dumped:
    """Counts of a dump: entities written, and blobs that no store has written."""

    entities: int = 0
    unreadable: int = 0


def dump(engine: Engine, path: Path, form: Format, kinds: Sequence[Kind]) -> Dumped:
    """Write all entities to a file, which appears under its name when it is complete.

    Raises EngineError or OSError.
    """
    dumped = Dumped()
    partial = path if path == STANDARD else path.with_name(f"{path.name}.partial")
    counts = engine.health().entities
    total = sum(number for kind, number in counts.items() if kind in (*kinds, "all"))
    stream, raw = open_file(partial, "wb")
    try:
        with tqdm(total=total, unit=" entities", desc="dump", disable=None) as bar:
            for kind in kinds:
                for entries in engine.scan(kind):
                    stream.write(b"".join(_lines(kind, entries, form, dumped)))
                    bar.update(len(entries))
        stream.flush()
    finally:
        if path != STANDARD:
            stream.close()
            raw.close()
    if path != STANDARD:
        os.replace(partial, path)
    return dumped


def _lines(
    kind: Kind, entries: Sequence[tuple[str, Value]], form: Format, dumped: Dumped
) -> Iterator[bytes]:
    for item, value in entries:
        try:
            record = record_of(Key(kind, item), value)
        except EntityError:
            dumped.unreadable += 1
            continue
        dumped.entities += 1
        yield encode_record(record, form)
