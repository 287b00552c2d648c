"""Join the arrays of rows for the native library, and check each of them.

The library checks counts, indices and offsets. It cannot check that an array is as long as it is
told, contiguous and of the right dtype, so that is done here, for every array that it reads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats, Integers
from service.engine.intent import SlateIntent
from service.engine.native_library import NONE, NativeError
from service.engine.rows import Row

Array = npt.NDArray[Any]
FLOAT, INTEGER = np.dtype(np.float32), np.dtype(np.int64)
addressof = ctypes.addressof
buffer_of: Callable[[Array], ctypes.c_char] = ctypes.c_char.from_buffer  # type: ignore[assignment]


def describe(
    rows: Sequence[Row], sizes: Sequence[int], positions: int
) -> tuple[list[tuple[int, ...]], list[Array], int]:
    """Return the fields of eglr_list of each row, noise of sampled rows, and elements of logits."""
    lists: list[tuple[int, ...]] = []
    noises: list[Array] = []
    noise = logits = boosts = 0
    for row, size in zip(rows, sizes, strict=True):
        slates, attributes, columns = 1, 0, 0
        noise_at = logits_at = boost_at = NONE
        if row.sampling is not None:
            slates = row.sampling.slates
            noises.append(row.sampling.noise(positions, size).ravel())
            noise_at, noise = noise, noise + noises[-1].size
        intent = row.intent
        if intent is not None:
            attributes, columns = len(intent.weight), intent.values.shape[1]
            if intent.boost is not None:
                boost_at, boosts = boosts, boosts + len(intent.boost)
        if row.explain or intent is not None:
            logits_at, logits = logits, logits + slates * positions * size
        lists.append(
            (size, slates, row.slate_size, row.budget, noise_at, logits_at, boost_at, attributes,
             columns)
        )  # fmt: skip
    return lists, noises, logits


def with_pins(lists: Sequence[tuple[int, ...]], rows: Sequence[Row], positions: int) -> Integers:
    """Return eglr_list of each row, then the pins of each, -1 where free: int64 [B * (9 + K)].

    Raises NativeError for pins that are no int64 of at most K positions.
    """
    numbers = [*chain.from_iterable(lists)]
    for row in rows:
        pins = row.constraints.pinned
        if pins.dtype != INTEGER or pins.ndim != 1 or len(pins) > positions:
            raise NativeError(
                f"pinned: must be int64 of at most {positions} positions, got {pins.dtype} "
                f"{pins.shape}"
            )
        numbers += pins.tolist()
        numbers += [NONE] * (positions - len(pins))
    return vector_of(numbers, INTEGER)


def vector_of(numbers: Sequence[float], dtype: np.dtype[Any]) -> Array:
    """Return numbers as an array. Raises NativeError if the dtype cannot hold them."""
    try:
        return np.array(numbers, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise NativeError(f"options of a row: {error}") from error


def address_of(array: Array) -> int:
    """Return the address of a contiguous array that is not empty."""
    try:
        return addressof(buffer_of(array))
    except TypeError:  # read-only; this way takes much longer
        return int(array.ctypes.data)


def joined(
    name: str,
    arrays: Sequence[Array],
    sizes: Sequence[int],
    width: int | None = None,
    dtype: np.dtype[Any] = FLOAT,
) -> Array:
    """Return arrays one after another, contiguous.

    Args:
        name: of the arrays, for messages.
        arrays: at least one.
        sizes: the length that each must have.
        width: of their second axis; None for arrays of one axis.
        dtype: of the result; integers and floats do not mix.

    Raises NativeError for an array of another dtype, shape or length.
    """
    shape = (sum(sizes),) if width is None else (sum(sizes), width)
    try:
        lengths = [len(array) for array in arrays]
        one = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if one.dtype == dtype and one.shape == shape and lengths == list(sizes):
            return one if one.flags.c_contiguous and one.flags.aligned else one.copy()
        kind = f"{one.dtype} {one.shape} in lengths of {lengths}"
    except (TypeError, ValueError, AttributeError) as error:  # of arrays that are none
        kind = str(error)
    raise NativeError(f"{name}: must be {dtype} {shape} in lengths of {list(sizes)}, got {kind}")


def joined_rows(
    item_rows: Sequence[Floats | None],
    tokens: Sequence[Integers],
    sizes: Sequence[int],
    width: int,
    table: Floats | None,
) -> Array:
    """Return item rows of all lists, float32 [sum of N, D].

    Args:
        item_rows: of each list, for a bundle of item rows.
        tokens: of each list int64 [N, T], for one of contract 2.
        sizes: of the lists.
        width: D.
        table: embeddings float32 [V, D] of tokens, None for a bundle of item rows.

    Raises NativeError for rows or tokens that do not fit.
    """
    if table is None:
        of_items = [rows for rows in item_rows if rows is not None]
        if len(of_items) != len(sizes):
            raise NativeError("rows: the bundle needs item rows, got none")
        return joined("rows", of_items, sizes, width)
    for part in tokens:
        if part.dtype != INTEGER or part.ndim != 2:
            raise NativeError(f"tokens: must be int64 [N, T], got {part.dtype} {part.shape}")
        if part.size and not (part.min() >= 0 and part.max() < len(table)):
            raise NativeError(f"tokens: must be from 0 to {len(table) - 1}")
    return joined("rows", [table[part].sum(axis=1) for part in tokens], sizes, width)


def intent_arrays(intents: Sequence[SlateIntent], sizes: Sequence[int]) -> dict[str, Array]:
    """Return the joined arrays of intents over lists of these sizes. Raises NativeError."""
    for intent, size in zip(intents, sizes, strict=True):
        attributes = len(intent.weight)
        shapes = {
            "values": (intent.values.shape[:1], (size,)),
            "alone": (intent.alone.shape, (attributes, size)),
            "retained": (intent.retained.shape, (attributes,)),
            "ends": ((len(intent.ends),), (attributes,)),
            "boost": (size if intent.boost is None else len(intent.boost), size),
        }
        for name, (shape, expected) in shapes.items():
            if shape != expected:
                raise NativeError(f"intent: {name} must be {expected}, got {shape}")

    def flat(name: str, values: Callable[[SlateIntent], Array]) -> Array:
        parts = [values(intent).ravel() for intent in intents]
        return joined(name, parts, [len(part) for part in parts])

    ends = [*chain.from_iterable(intent.ends for intent in intents)]
    arrays: dict[str, Array] = {
        "weight": flat("weight", lambda intent: intent.weight),
        "retained": flat("retained", lambda intent: intent.retained),
        "values": flat("values", lambda intent: intent.values),
        "alone": flat("alone", lambda intent: intent.alone),
    }
    if ends:
        arrays["ends"] = vector_of(ends, INTEGER)
    boosts = [intent.boost for intent in intents if intent.boost is not None]
    if boosts:
        arrays["boosts"] = joined("boost", boosts, [len(boost) for boost in boosts])
    return arrays


def split_logits(
    logits: Array, lists: Sequence[tuple[int, ...]], positions: int
) -> list[Floats | None]:
    """Return the logits [K, N] of each slate as views, None for slates without.

    lists: fields of eglr_list.
    """
    parts: list[Floats | None] = []
    for size, slates, _, _, _, at, *_ in lists:
        if at == NONE:
            parts.extend([None] * slates)
        else:
            end = at + slates * positions * size
            parts.extend(logits[at:end].reshape(slates, positions, size))
    return parts
