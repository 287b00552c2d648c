"""Files of entities: lines of JSON, or MessagePack values behind each other; also gzipped."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import msgpack
import orjson
import ormsgpack

from service.state.errors import EntityError

Format = Literal["ndjson", "msgpack"]
SUFFIXES: dict[str, Format] = {
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".msgpack": "msgpack",
    ".mpk": "msgpack",
}  # fmt: skip
MAX_RECORD = 4 << 20  # bytes of one entity in a file
READ_BYTES = 1 << 20
READ, CREATE = os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
STANDARD = Path("-")  # standard input or output


def format_of(path: Path, stated: Format | None) -> Format:
    """Return the stated format, or that of the suffix; of standard streams, JSON."""
    if stated is not None:
        return stated
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if path != STANDARD and plain.suffix not in SUFFIXES:
        rule = f"a file that ends with {', '.join(SUFFIXES)}, or an option --format"
        raise EntityError("file", rule, str(path))
    return SUFFIXES.get(plain.suffix, "ndjson")


def open_file(path: Path, mode: Literal["rb", "wb"]) -> tuple[IO[bytes], IO[bytes]]:
    """Return a stream of the content, and the stream below it, whose position is the progress.

    A new file is readable by its owner alone, because it may hold personal data. Raises OSError.
    """
    if path == STANDARD:
        stream = sys.stdin.buffer if mode == "rb" else sys.stdout.buffer
        return stream, stream
    raw = os.fdopen(os.open(path, READ if mode == "rb" else CREATE, 0o600), mode)
    if ".gz" in path.suffixes[-2:]:
        zipped = gzip.GzipFile(fileobj=raw, mode=mode, compresslevel=1, filename="", mtime=0)
        return zipped, raw  # type: ignore[return-value]
    return raw, raw


def read_payloads(
    stream: IO[bytes], form: Format, skip: int = 0
) -> Iterator[tuple[int, Any, EntityError | None]]:
    """Yield the number of each record, from 1, its decoded value, and an error in its place.

    Args:
        skip: records at the start that are passed over.

    Raises EntityError if the rest of the stream cannot be read, OSError, or EOFError for a gzip
    file that was cut off.
    """
    return _read_lines(stream, skip) if form == "ndjson" else _read_values(stream, skip)


def _read_lines(stream: IO[bytes], skip: int) -> Iterator[tuple[int, Any, EntityError | None]]:
    number = 0
    while line := stream.readline(MAX_RECORD + 1):
        number += 1
        if len(line) > MAX_RECORD:
            raise EntityError(f"line {number}", f"at most {MAX_RECORD} bytes", len(line))
        if number <= skip or line.isspace():
            continue
        try:
            yield number, orjson.loads(line), None
        except orjson.JSONDecodeError as error:
            yield number, None, EntityError("line", f"JSON in UTF-8 ({error})", line[:60])


def _read_values(stream: IO[bytes], skip: int) -> Iterator[tuple[int, Any, EntityError | None]]:
    unpacker = msgpack.Unpacker(
        strict_map_key=False, max_buffer_size=MAX_RECORD + READ_BYTES, use_list=True
    )
    number, used = 0, 0
    while chunk := stream.read(READ_BYTES):
        try:
            unpacker.feed(chunk)
        except msgpack.BufferFull:
            rule = f"at most {MAX_RECORD} bytes"
            raise EntityError(f"record {number + 1}", rule, "more") from None
        used += len(chunk)
        while True:
            try:
                payload = unpacker.unpack()
            except msgpack.OutOfData:
                break
            except (msgpack.UnpackException, ValueError, RecursionError) as error:
                # The start of the next value is unknown.
                raise EntityError(f"record {number + 1}", "MessagePack", repr(error)) from None
            number += 1
            if number > skip:
                yield number, payload, None
    if unpacker.tell() != used:
        raise EntityError(f"record {number + 1}", "complete", f"{used - unpacker.tell()} bytes")


def encode_record(record: dict[str, Any], form: Format) -> bytes:
    """Return a record as a line or a MessagePack value."""
    if form == "msgpack":
        return ormsgpack.packb(record)
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def describe_value(value: Any) -> str:
    """Return a value as JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)
