"""Frames of records: one zstd frame per flush, which holds one MessagePack array of records.

A segment is a sequence of such frames, so `zstd -d` reads it too. A frame has a checksum. A writer
that dies leaves at most one incomplete frame, at the end: the torn tail.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ormsgpack
import zstandard

MAGIC = b"\x28\xb5\x2f\xfd"  # each frame of zstd begins with it
ARRAY = b"\xdd"  # MessagePack: an array, whose length follows in 4 bytes
LEVEL = 1  # twice as fast as the default, for a fifth more bytes
CHUNK = 1 << 16
MAX_BYTES = 1 << 30  # of one frame's records; a longer one was not written by the journal


@dataclass(frozen=True)
class Frame:
    """The records of one frame, decoded to maps, and its place in the segment in bytes."""

    start: int
    end: int
    records: Sequence[Any]


@dataclass(frozen=True)
class Gap:
    """Bytes that are no frame. torn: they are the end of the segment."""

    start: int
    end: int
    torn: bool


class Content(Protocol):
    """The bytes of a segment: bytes or a memory map."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...
    def find(self, value: bytes, start: int, /) -> int: ...


class FrameEncoder:
    """Compresses frames; belongs to one thread."""

    def __init__(self, level: int = LEVEL) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)

    def encode(self, records: Sequence[bytes]) -> bytes:
        """Return the frame of packed records."""
        content = b"".join((ARRAY, struct.pack(">I", len(records)), *records))
        return self._compressor.compress(content)


def frames_in(content: Content, start: int = 0) -> Iterator[Frame | Gap]:
    """Yield the frames of a segment in order, and a gap for all bytes that are none."""
    at = start
    while at < len(content):
        frame = _frame_at(content, at)
        if frame is None:
            following = content.find(MAGIC, at + 1)
            while following >= 0 and (frame := _frame_at(content, following)) is None:
                following = content.find(MAGIC, following + 1)
            yield Gap(at, len(content) if frame is None else frame.start, frame is None)
            if frame is None:
                return
        yield frame
        at = frame.end


def _frame_at(content: Content, start: int) -> Frame | None:
    """Return the frame that begins at a byte, None if it is incomplete or none."""
    try:
        size = zstandard.get_frame_parameters(content[start : start + 18]).content_size
        if size > MAX_BYTES:  # unknown sizes are the largest numbers
            return None
        decoder, decoded, end = zstandard.ZstdDecompressor().decompressobj(), [], start
        while not decoder.eof:
            chunk = content[end : end + CHUNK]
            if not chunk:
                return None
            decoded.append(decoder.decompress(chunk))
            end += len(chunk)
        records = ormsgpack.unpackb(b"".join(decoded))
    except (zstandard.ZstdError, ValueError):
        return None
    return Frame(start, end - len(decoder.unused_data), records) if type(records) is list else None
