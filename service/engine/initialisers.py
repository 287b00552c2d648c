"""Read weights from an ONNX file without the package `onnx`: initialisers and small constants.

Only the fields of the protobuf messages that hold them are decoded, and every length is checked
against the bytes that are left. The numbers are those of onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import BundleError, Floats

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # wire types
FLOAT, INT64 = 1, 7  # TensorProto.DataType
GRAPH, NODE, INITIALISER, ATTRIBUTE, ATTRIBUTE_TENSOR = 7, 1, 5, 5, 5
DIMS, DATA_TYPE, NAME, RAW_DATA = 1, 2, 8, 9  # of a TensorProto

Field = tuple[int, int | memoryview]  # its number, and its value or bytes


@dataclass(frozen=True)
class Initialisers:
    """Weights of a graph by name, float32, and the int64 constants of its main nodes."""

    weights: dict[str, Floats]
    constants: list[list[int]]


def read_initialisers(path: Path) -> Initialisers:
    """Read the float32 initialisers of an ONNX file. Raises BundleError if it is malformed."""
    weights: dict[str, Floats] = {}
    constants: list[list[int]] = []
    try:
        for graph in parts(memoryview(path.read_bytes()), GRAPH):
            for tensor in parts(graph, INITIALISER):
                name, array = tensor_of(tensor)
                if array.dtype == np.float32:
                    weights[name] = array
            for node in parts(graph, NODE):
                for attribute in parts(node, ATTRIBUTE):
                    for tensor in parts(attribute, ATTRIBUTE_TENSOR):
                        _, array = tensor_of(tensor)
                        if array.dtype == np.int64:
                            constants.append(array.ravel().tolist())
    except ValueError as error:
        raise BundleError(f"{path}: weights cannot be read ({error})") from error
    return Initialisers(weights, constants)


def tensor_of(tensor: memoryview) -> tuple[str, npt.NDArray[Any]]:
    """Return name and values of a TensorProto; other types than float32 and int64 are left empty.

    Raises ValueError unless the raw bytes fit its dimensions.
    """
    dims: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    for number, value in fields(tensor):
        if number == DIMS:
            dims.extend([value] if isinstance(value, int) else packed(value))
        elif number == DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif number == RAW_DATA and not isinstance(value, int):
            raw = value
    if kind not in (FLOAT, INT64):
        return name, np.empty(0, np.bool_)
    dtype = np.dtype("<f4" if kind == FLOAT else "<i8")
    if len(raw) != math.prod(dims) * dtype.itemsize:
        raise ValueError(f"{name!r}: {len(raw)} bytes do not fit the dimensions {dims}")
    return name, np.frombuffer(raw, dtype).reshape(dims)


def parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the bytes of each field of this number. Raises ValueError for a malformed message."""
    for number, value in fields(message):
        if number == wanted and not isinstance(value, int):
            yield value


def fields(message: memoryview) -> Iterator[Field]:
    """Yield number and value of each field. Raises ValueError for a malformed message."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(message, at)
            yield number, value
            continue
        if wire == BYTES:
            length, at = varint(message, at)
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if wire == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if length > len(message) - at:
            raise ValueError(f"{length} bytes at byte {at}, {len(message) - at} are left")
        yield number, message[at : at + length]
        at += length


def packed(message: memoryview) -> Sequence[int]:
    """Return the numbers of a packed field. Raises ValueError for a malformed one."""
    values, at = [], 0
    while at < len(message):
        value, at = varint(message, at)
        values.append(value)
    return values


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number and the place after it. Raises ValueError beyond 64 bits or the message."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(message):
            raise ValueError(f"ends within a number at byte {at}")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than 64 bits before byte {at}")
