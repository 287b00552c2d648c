"""Candidates by column, with arrays of any library that shares its memory, such as NumPy."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DTYPES = {"f": "float32", "d": "float64"}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_BITS = 64  # of an integer in MessagePack


@dataclass(frozen=True, slots=True)
class PackedArray:
    """Numbers as the service reads them: little-endian bytes, row after row."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def as_column(values: object) -> object:
    """Return floats that lie in memory as a PackedArray, other arrays as lists.

    Anything that is no array is returned unchanged.
    """
    if isinstance(values, (str, bytes, bytearray, Mapping)) or not hasattr(values, "__len__"):
        return values
    try:
        view = memoryview(values)  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        view = None
    if view is not None and view.ndim in (1, 2) and view.format in DTYPES:
        shape = tuple(view.shape or ())
        return PackedArray(DTYPES[view.format], shape, _little_endian(view))
    to_list = getattr(values, "tolist", None)
    return to_list() if callable(to_list) else values


def _little_endian(view: memoryview) -> bytes:
    data = view.tobytes()
    if sys.byteorder == "little":
        return data
    swapped = array(str(view.format), data)
    swapped.byteswap()
    return swapped.tobytes()


def with_arrays(features: object) -> object:
    """Return features of a user, context or history entry, arrays as `as_column` returns them."""
    if not isinstance(features, Mapping):
        return features
    return {name: as_column(value) for name, value in features.items()}


def as_records(candidates: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Sequence[Any]:
    """Return the candidates of a body as records with `id`, `groups`, `topics` and `boost`."""
    if not isinstance(candidates, Mapping):
        return candidates
    records: list[dict[str, Any]] = [{"id": item} for item in candidates["id"]]
    for part in ("groups", "topics"):
        columns = {n: values for n, values in (candidates.get(part) or {}).items() if values}
        for i, record in enumerate(records):
            record[part] = {n: values[i] for n, values in columns.items() if i < len(values)}
    boosts = candidates.get("boost")
    if isinstance(boosts, PackedArray):
        boosts = unpacked(boosts)
    for record, boost in zip(records, boosts or (), strict=False):
        record["boost"] = boost
    return records


def unpacked(packed: PackedArray) -> list[float]:
    """Return the numbers of an array, row after row."""
    count = math.prod(packed.shape)
    return list(struct.unpack(f"<{count}{CODES[packed.dtype]}", packed.data))


def holds_arrays(body: Mapping[str, Any]) -> bool:
    """Tell if a list's body has a PackedArray, which only MessagePack can carry."""
    candidates, user = body["candidates"], body.get("user")
    places = [body.get("context"), user.get("features") if isinstance(user, Mapping) else None]
    if isinstance(candidates, Mapping):
        places += [candidates.get("features"), candidates]
    history = (user.get("history") or ()) if isinstance(user, Mapping) else ()
    places += [entry.get("features") for entry in history if isinstance(entry, Mapping)]
    return any(
        isinstance(value, PackedArray)
        for place in places
        if isinstance(place, Mapping)
        for value in place.values()
    )


def pack(value: object) -> bytes:
    """Encode a body as MessagePack.

    Raises TypeError or ValueError for a value that MessagePack cannot hold.
    """
    parts: list[bytes] = []
    _pack(value, parts)
    return b"".join(parts)


def _pack(value: object, parts: list[bytes]) -> None:
    match value:
        case None | bool():
            parts.append({None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value])
        case int():
            parts.append(_integer(value))
        case float():
            if not math.isfinite(value):
                raise ValueError(f"got {value!r}")
            parts.append(struct.pack(">Bd", 0xCB, value))
        case str():
            text = value.encode()
            parts += [_head(len(text), (0xA0, 32), (0xD9, 0xDA, 0xDB)), text]
        case PackedArray(dtype, shape, data):
            parts.append(b"\x83")
            for key, part in (("dtype", dtype), ("shape", shape)):
                _pack(key, parts)
                _pack(part, parts)
            _pack("data", parts)
            parts += [_head(len(data), (0, 0), (0xC4, 0xC5, 0xC6)), data]
        case Mapping():
            parts.append(_head(len(value), (0x80, 16), (None, 0xDE, 0xDF)))
            for key, entry in value.items():
                _pack(key, parts)
                _pack(entry, parts)
        case Sequence() if not isinstance(value, (bytes, bytearray, memoryview)):
            parts.append(_head(len(value), (0x90, 16), (None, 0xDC, 0xDD)))
            _pack_all(value, parts)
        case _:
            raise TypeError(f"got {type(value).__name__}")


def _pack_all(values: Iterable[object], parts: list[bytes]) -> None:
    for value in values:
        _pack(value, parts)


def _integer(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    if not -(1 << (MAX_BITS - 1)) <= value < 1 << MAX_BITS:
        raise ValueError(f"an integer beside arrays must fit into {MAX_BITS} bits, got {value}")
    return struct.pack(">BQ", 0xCF, value) if value > 0 else struct.pack(">Bq", 0xD3, value)


def _head(length: int, short: tuple[int, int], codes: tuple[int | None, int, int]) -> bytes:
    """Return the head of a value.

    Args:
        short: first code of a head that holds the length, and the length from which it does not.
        codes: of heads with a length of 1, 2 and 4 bytes; None where there is none.
    """
    if length < short[1]:
        return bytes([short[0] + length])
    for code, form, limit in zip(codes, "BHI", (1 << 8, 1 << 16, 1 << 32), strict=True):
        if code is not None and length < limit:
            return struct.pack(f">B{form}", code, length)
    raise ValueError(f"at most 2^32 bytes or entries, got {length}")
