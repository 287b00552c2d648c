"""Columns of numbers as arrays of MessagePack, intact and broken."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import ormsgpack
from hypothesis import strategies as st

from loadtest.fuzz.bodies import as_columns
from loadtest.fuzz.bundle import Bundle

CODES = {"float32": "f", "float64": "d"}
NUMBERS = st.floats(-1000, 1000, width=32)
# Changes that leave an array intact, or not.
CHANGES = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"dtype": st.sampled_from(["float32", "float64", "int8", "", None])}),
    st.fixed_dictionaries({"shape": st.lists(st.integers(-1, 4) | st.just(2**63), max_size=3)}),
    st.fixed_dictionaries({"data": st.binary(max_size=40) | st.text(max_size=4) | st.none()}),
    st.fixed_dictionaries({"data": st.just(struct.pack("<f", float("nan")))}),
    st.just({"order": "F"}),
)


def array_of(values: Sequence[float], dtype: str = "float64") -> dict[str, Any]:
    """Return numbers as an array."""
    data = struct.pack(f"<{len(values)}{CODES[dtype]}", *values)
    return {"dtype": dtype, "shape": [len(values)], "data": data}


def numbers_of(array: dict[str, Any]) -> tuple[float, ...]:
    """Return the numbers of an array, whose data may be text as `decoded_request` leaves it."""
    data, code = array["data"], CODES[array["dtype"]]
    content = data.encode("latin-1") if isinstance(data, str) else data
    return struct.unpack(f"<{len(content) // struct.calcsize(code)}{code}", content)


def with_arrays(body: dict[str, Any]) -> dict[str, Any]:
    """Return a list's body with arrays for columns of numbers; other forms are unchanged."""
    candidates = body["candidates"]
    if not isinstance(candidates, dict):
        return body
    features = {
        name: array_of(column) if column and all(map(_is_number, column)) else column
        for name, column in (candidates.get("features") or {}).items()
    }
    columns = {**candidates, "features": features}
    boosts = candidates.get("boost")
    if boosts and all(map(_is_number, boosts)):
        columns["boost"] = array_of(boosts)
    return {**body, "candidates": columns}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@st.composite
def bodies_with_arrays(draw: st.DrawFn, payload: st.SearchStrategy[Any], bundle: Bundle) -> bytes:
    """Return bodies in MessagePack with an array in each list, perhaps a broken one."""
    body = draw(payload)
    for one in body.get("requests", [body]):
        candidates = one["candidates"]
        if isinstance(candidates, list):
            records = [each if isinstance(each, dict) else {"id": each} for each in candidates]
            candidates = one["candidates"] = as_columns(records)
        values = draw(st.lists(NUMBERS, min_size=1, max_size=5))
        tiled = list(itertools.islice(itertools.cycle(values), len(candidates["id"])))
        array = array_of(tiled, draw(st.sampled_from(list(CODES)))) | draw(CHANGES)
        name = draw(st.sampled_from([*bundle.numbers, *bundle.vectors, "score", "boost"]))
        if name in ("score", "boost"):
            candidates[name] = array
        else:
            candidates["features"] = {**(candidates.get("features") or {}), name: array}
    return ormsgpack.packb(body)
