"""A session takes the native library only where it gives the graph's slates."""

import dataclasses

import numpy as np
import pytest

from export.draws import random_batches, random_lists
from service.engine import native_backend
from service.engine.contract import BundleError
from service.engine.native_library import NativeError, NativeLibrary
from service.engine.native_weights import generator_weights
from service.engine.session import Session
from tests.support.bundles import BUNDLE, ROOT

OLD_BUNDLE = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"


@pytest.fixture
def with_library(monkeypatch, native_library):
    monkeypatch.setattr(native_backend, "shared_library", lambda: native_library)


@pytest.fixture
def without_library(monkeypatch):
    def refuse():
        raise NativeError("no library here")

    monkeypatch.setattr(native_backend, "shared_library", refuse)


@pytest.fixture(scope="module")
def native(native_library):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_backend, "shared_library", lambda: native_library)
        return Session.load(BUNDLE, backend="auto")


@pytest.mark.parametrize("intents", [False, True])
def test_a_native_session_ranks_as_one_of_the_graph(native, session, intents):
    assert native.backend.name == "native"
    assert native.provider == "CPUExecutionProvider"
    for rows in random_batches(session, random_lists(session, 4, 1), 2, intents):
        for one, other in zip(session.run(rows), native.run(rows), strict=True):
            np.testing.assert_array_equal(one.indices, other.indices)
            np.testing.assert_array_equal(one.steps, other.steps)
            assert one.sample == other.sample
            assert one.logits is not None
            assert other.logits is not None
            np.testing.assert_allclose(one.logits, other.logits, rtol=1e-6, atol=2e-5)
            if one.utility is not None:
                assert other.utility == pytest.approx(one.utility, abs=1e-5)


def test_a_bundle_of_the_old_contract_runs_natively(with_library):
    graph, native = (Session.load(OLD_BUNDLE, backend=name) for name in ("onnx", "native"))
    assert native.backend.name == "native"
    for rows in random_batches(graph, random_lists(graph, 2, 1), 2):
        for one, other in zip(graph.run(rows), native.run(rows), strict=True):
            np.testing.assert_array_equal(one.indices, other.indices)


def test_the_library_writes_columns_only_where_they_have_the_bits_of_numpy(
    with_library, native, session, monkeypatch
):
    assert native.featuriser.compared.native is not None
    assert session.featuriser.compared.native is None  # of the graph
    monkeypatch.setattr(native_backend, "gives_same_bits", lambda *parts: False)
    other = Session.load(BUNDLE, backend="native")
    assert other.featuriser.compared.native is None
    assert (
        "numpy selects entries in another order, so it writes the features" in other.backend.detail
    )
    assert "numpy" not in native.backend.detail


def test_without_a_library_the_graph_serves_and_says_why(without_library, session):
    automatic = Session.load(BUNDLE, backend="auto")
    assert automatic.backend == native_backend.Backend("onnx", "library", "no library here")
    row = session.blank_row(5)
    assert automatic.run([row])[0].indices.tolist() == session.run([row])[0].indices.tolist()
    with pytest.raises(BundleError, match=r"no library here.*RERANK_BACKEND=auto"):
        Session.load(BUNDLE, backend="native")


def test_a_library_that_decodes_other_slates_is_not_taken(with_library, monkeypatch):

    def perturbed(*arguments):
        weights = generator_weights(*arguments)
        return dataclasses.replace(weights, weights=weights.weights * np.float32(1.01))

    monkeypatch.setattr(native_backend, "generator_weights", perturbed)
    automatic = Session.load(BUNDLE, backend="auto")
    assert (automatic.backend.name, automatic.backend.reason) == ("onnx", "difference")
    with pytest.raises(BundleError, match="cannot run on the native library"):
        Session.load(BUNDLE, backend="native")


def test_a_file_that_is_no_library_is_refused_naming_it(tmp_path):
    path = tmp_path / "library.so"
    path.write_text("nothing", encoding="utf-8")
    with pytest.raises(NativeError, match=r"library\.so: does not load"):
        NativeLibrary(path)
