"""Find the positions of ids in a table, by a dictionary or in memory-mapped arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, overload
from zlib import crc32

import numpy as np
import numpy.typing as npt

from service.engine.contract import IDS_SUFFIXES, Integers
from service.engine.features.flat_files import read_array, write_array

# Below this many ids a dictionary of strings takes little memory, and it is faster.
DICTIONARY_SIZE = 100_000
IDS_PER_BLOCK = 4096  # ids decoded at a time
PACKED = "ids.text", "ids.ends"  # arrays of ids in an archive

Array = npt.NDArray[Any]


class Ids(Sequence[str]):
    """Distinct ids by position, and positions by id."""

    @abstractmethod
    def find(self, ids: Sequence[str]) -> Integers:
        """Return the position of each id, int64 [N]; len(self) for an id that is not held."""

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._text(at) for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._text(index % len(self))

    @abstractmethod
    def _text(self, position: int) -> str:
        """Return the id at a position from 0 to len(self) - 1."""


class HeldIds(Ids):
    """Ids in a tuple of strings with a dictionary."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = tuple(ids)
        self.position_of = {item: position for position, item in enumerate(self._ids)}

    def find(self, ids: Sequence[str]) -> Integers:
        position_of, missing = self.position_of, len(self._ids)
        return np.fromiter(map(position_of.get, ids, repeat(missing)), np.int64, len(ids))

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def _text(self, position: int) -> str:
        return self._ids[position]


class MappedIds(Ids):
    """Ids in flat arrays that may be memory-mapped; I ids.

    text    uint8, all ids in UTF-8, one after the other
    ends    int64 [I + 1]; id i is text[ends[i] : ends[i + 1]]
    hashes  uint32 [I], the CRC-32 of every id, ascending
    order   uint32 [I], the position of the id with each hash
    """

    def __init__(self, text: Array, ends: Array, hashes: Array, order: Array) -> None:
        self._text_of, self._ends, self._hashes, self._order = text, ends, hashes, order
        self._bytes: memoryview = text.data

    def find(self, ids: Sequence[str]) -> Integers:
        if not len(self):
            return np.zeros(len(ids), np.int64)
        encoded = [_encode(item) for item in ids]
        hashes = np.fromiter(map(crc32, encoded), np.uint32, len(encoded))
        places = self._hashes.searchsorted(hashes)
        positions = self._order.take(places, mode="clip").astype(np.int64)
        equal = self._equal(positions, encoded)
        for index in [index for index, same in enumerate(equal) if not same]:
            positions[index] = self._search(encoded[index], int(hashes[index]), int(places[index]))
        return positions

    def _search(self, item: bytes, value: int, place: int) -> int:
        """Return the position of an id of this hash, from a place on; len(self) for none."""
        while place < len(self) and self._hashes[place] == value:
            position = self._order[place : place + 1].astype(np.int64)
            if self._equal(position, [item])[0]:
                return int(position[0])
            place += 1
        return len(self)

    def _equal(self, positions: Integers, encoded: Sequence[bytes]) -> list[bool]:
        """Compare the ids at positions [N] with others, byte by byte."""
        begins, ends = self._ends.take(positions).tolist(), self._ends.take(positions + 1).tolist()
        text = self._bytes
        return [
            text[begin:end] == item for begin, end, item in zip(begins, ends, encoded, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), IDS_PER_BLOCK):
            ends = self._ends[start : start + IDS_PER_BLOCK + 1]
            block, offset = self._text_of[ends[0] : ends[-1]].tobytes(), int(ends[0])
            for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                yield _decode(block[begin - offset : end - offset])

    def _text(self, position: int) -> str:
        begin, end = self._ends[position : position + 2].tolist()
        return _decode(self._text_of[begin:end].tobytes())


def write_ids(directory: Path, name: str, ids: Sequence[str]) -> None:
    """Write ids as the flat files `name`.* of MappedIds. Raises ValueError for a repeated id."""
    encoded = [_encode(item) for item in ids]
    if len(set(encoded)) < len(encoded):
        ((repeated, times),) = Counter(ids).most_common(1)
        rule = f"ids must be distinct, {repeated!r} stands {times} times"
        raise ValueError(f"{directory / name}: {rule}")
    hashes = np.fromiter(map(crc32, encoded), np.uint32, len(encoded))
    order = hashes.argsort(kind="stable")
    arrays = *_join(encoded), hashes[order], order.astype(np.uint32)
    for suffix, array in zip(IDS_SUFFIXES, arrays, strict=True):
        write_array(directory / f"{name}.{suffix}", array)


def read_ids(directory: Path, name: str) -> Ids:
    """Map the files of `write_ids`; few ids are held in a dictionary instead."""
    ids = MappedIds(*(read_array(directory / f"{name}.{suffix}") for suffix in IDS_SUFFIXES))
    return HeldIds(list(ids)) if len(ids) < DICTIONARY_SIZE else ids


def pack_ids(ids: Sequence[str]) -> dict[str, Array]:
    """Return ids as arrays of an archive; one of str_ would lose NULs and be as wide as any id."""
    return dict(zip(PACKED, _join([_encode(item) for item in ids]), strict=True))


def unpack_ids(archive: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the ids of `pack_ids`, or those of an archive of an earlier version."""
    if "ids" in archive:
        return tuple(archive["ids"].tolist())
    text, ends = (archive[name] for name in PACKED)
    content, places = text.tobytes(), ends.tolist()
    return tuple(_decode(content[begin:end]) for begin, end in pairwise(places))


def _join(encoded: Sequence[bytes]) -> tuple[Array, Array]:
    """Return the bytes of all ids, one after the other, and the ends of each, int64 [I + 1]."""
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return np.frombuffer(b"".join(encoded), np.uint8), np.append(np.int64(0), lengths.cumsum())


def _encode(item: str) -> bytes:
    return item.encode("utf-8", "surrogatepass")


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
