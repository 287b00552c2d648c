"""No array that a caller could pass crashes the native library; it is refused with a reason."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.native import Network, Pair
from service.engine.contract import BundleError
from service.engine.initialisers import read_initialisers
from service.engine.native_library import NativeError
from service.engine.native_weights import UnsupportedError, generator_weights
from tests.support.bundles import BUNDLE

GRAPH = BUNDLE / "generator.onnx"
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
NETWORK = Network("transformer", 16, 1, 5, 2)
DTYPES = st.sampled_from(["float32", "float64", "int64", "int32", "bool", "float16"])
HOSTILE_ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
    )
)
HOSTILE_NUMBERS = st.sampled_from(
    [-(1 << 63), -1, 0, 3, 6, 1 << 31, 1 << 62, 1 << 64, 0.5, float("nan"), float("inf"), None, "x"]
)
FIELDS = {
    "numbers": HOSTILE_ARRAYS, "rows": HOSTILE_ARRAYS | st.none(),
    "slate_size": HOSTILE_NUMBERS, "budget": HOSTILE_NUMBERS,
    "entropy_threshold": HOSTILE_NUMBERS, "reason_temperature": HOSTILE_NUMBERS,
    "recommend_temperature": HOSTILE_NUMBERS,
}  # fmt: skip
CONSTRAINTS = ("pinned", "group", "quota")
INTENT = ("boost", "values", "alone", "weight", "retained", "ends")
VALID = (  # of int64, which the library itself checks
    ("pinned", np.array([-2, 0], np.int64), "pinned must be -1 or a candidate"),
    ("pinned", np.array([99], np.int64), "pinned must be -1 or a candidate"),
    ("slate_size", 6, "length must be from 0"),
    ("slate_size", -1, "length must be from 0"),
    ("budget", -1, "budget must be 0 or more"),
)


@pytest.fixture(scope="module")
def pair(native_library):
    return Pair(NETWORK, 0, native_library)


def rows_of(pair, count=3, intents=True):
    rows = pair.draw(np.random.default_rng(5), intents)
    return [dataclasses.replace(row, sampling=None) for row in rows[:count]]


def run(pair, rows):
    """Return true if the rows were decoded to slates within their lists, false if refused."""
    try:
        outputs = pair.native.run(rows)
    except NativeError:
        return False
    sizes = np.array([len(row.numbers) for row in rows])
    assert (outputs.slate >= -1).all()
    assert (outputs.slate < sizes[:, None]).all()
    return True


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_a_hostile_field_of_a_row_is_decoded_or_refused(pair, data):
    rows = rows_of(pair)
    name = data.draw(st.sampled_from([*FIELDS, *CONSTRAINTS, *INTENT, "slates"]))
    place = data.draw(st.integers(0, len(rows) - 1))
    row = rows[place]
    if name in FIELDS:
        row = dataclasses.replace(row, **{name: data.draw(FIELDS[name])})
    elif name == "slates":
        count = data.draw(st.sampled_from([-1, 0, 1, 7]))
        noise = data.draw(HOSTILE_ARRAYS)
        row = dataclasses.replace(
            row, sampling=SimpleNamespace(slates=count, noise=lambda *_: noise)
        )
    else:
        of = "constraints" if name in CONSTRAINTS else "intent"
        value = data.draw(HOSTILE_ARRAYS | st.lists(HOSTILE_NUMBERS, max_size=3))
        row = dataclasses.replace(
            row, **{of: dataclasses.replace(getattr(row, of), **{name: value})}
        )
    rows[place] = row
    run(pair, rows)


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(
    values=hnp.arrays("float32", (4, 7), elements=st.floats(width=32)), scale=st.floats(width=32)
)
def test_any_floats_give_slates_within_the_list(pair, values, scale):
    row = rows_of(pair, 1)[0]
    numbers = np.resize(values, row.numbers.shape).astype(np.float32)
    changed = dataclasses.replace(row, numbers=numbers, reason_temperature=scale)
    assert run(pair, [changed])


@pytest.mark.parametrize(("name", "value", "message"), VALID)
def test_an_index_or_count_out_of_range_is_refused_naming_the_list(pair, name, value, message):
    first, second = rows_of(pair, 2)
    if name in CONSTRAINTS:
        constraints = dataclasses.replace(second.constraints, **{name: value})
        second = dataclasses.replace(second, constraints=constraints)
    else:
        second = dataclasses.replace(second, **{name: value})
    with pytest.raises(NativeError, match=f"list 1 of the batch: {message}"):
        pair.native.run([first, second])
    assert run(pair, [first])


def test_an_empty_batch_and_an_empty_list_are_refused(pair):
    (row,) = rows_of(pair, 1, intents=False)
    empty = dataclasses.replace(row, numbers=row.numbers[:0], rows=row.rows[:0])
    for rows in ([], [empty]):
        with pytest.raises(NativeError):
            pair.native.run(rows)


def test_arrays_of_other_layouts_give_the_same_slate(pair):
    (row,) = rows_of(pair, 1)
    strided = np.repeat(row.numbers, 2, axis=1)[:, ::2]
    strided.flags.writeable = False
    outputs = pair.native.run([row]), pair.native.run([dataclasses.replace(row, numbers=strided)])
    np.testing.assert_array_equal(outputs[0].slate, outputs[1].slate)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_malformed_graph_is_a_bundle_error(data, tmp_path_factory):
    content = bytearray(GRAPH.read_bytes()[-4000:])
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("graph") / "graph.onnx"
    path.write_bytes(content[data.draw(st.integers(0, 200)) :])
    try:
        generator_weights(read_initialisers(path), 10, 3)
    except (BundleError, UnsupportedError):
        return
    raise AssertionError("a part of a graph has all weights")
