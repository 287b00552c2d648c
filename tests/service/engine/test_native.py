"""The native library decodes the slates of the graph, with the weights of its initialisers."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from export.native import NETWORKS, Network, Pair
from service.engine.contract import EVALUATOR, GENERATOR
from service.engine.features.candidates import CandidateList
from service.engine.initialisers import read_initialisers
from service.engine.native import NativeEvaluator, NativeGenerator
from service.engine.native_check import CLOSE, Comparison, DifferenceError
from service.engine.native_weights import evaluator_weights, generator_weights
from service.engine.rows import SlateSampling
from tests.support import native
from tests.support.bundles import BUNDLE

# Sanitizers and emulators look for other faults, and take several times as long.
LISTS = 10 if native.NAMED in os.environ else 40


@pytest.fixture(scope="module")
def weights(session):
    manifest = session.manifest
    initialisers = read_initialisers(BUNDLE / GENERATOR)
    return generator_weights(initialisers, manifest.slate_length, manifest.budget)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{network.host}-{network.width}")
def test_slates_steps_and_entropies_are_those_of_the_graph(native_library, network):
    comparison = Pair(network, 0, native_library).compare(LISTS, 0)
    assert comparison.slates >= LISTS
    assert comparison.close <= 1


def test_a_weight_that_is_off_by_a_hundredth_is_noticed(native_library):
    pair = Pair(Network("transformer", 16, 1, 5, 2), 0, native_library)
    weights = pair.weights.weights.copy()
    weights[len(weights) // 2] += 0.01
    perturbed = dataclasses.replace(pair.weights, weights=weights)
    pair.native = NativeGenerator(native_library, perturbed)
    with pytest.raises(DifferenceError, match=r"may differ|the graph has"):
        pair.compare(40, 0)


def test_slates_of_a_list_share_its_encoding_and_differ_by_their_noise(native_library):
    pair = Pair(Network("transformer", 16, 1, 5, 2), 0, native_library)
    row = pair.draw(np.random.default_rng(1), intents=False)[0]
    row = dataclasses.replace(row, sampling=SlateSampling(20, seed=3))
    comparison = Comparison()
    native = pair.native.run([row, row])
    comparison.add([row, row], pair.run_graph([row, row]), native)
    assert comparison.slates == 40
    np.testing.assert_array_equal(native.slate[:20], native.slate[20:])
    assert len({tuple(slate) for slate in native.slate.tolist()}) > 1


def test_a_slate_does_not_depend_on_its_neighbours(native_library):
    pair = Pair(Network("gru", 16, 1, 5, 2), 0, native_library)
    rows = [row for seed in range(4) for row in pair.draw(np.random.default_rng(seed), False)]
    rows = [dataclasses.replace(row, sampling=None) for row in rows]
    together = pair.native.run(rows)
    for number, row in enumerate(rows):
        alone = pair.native.run([row])
        np.testing.assert_array_equal(alone.slate[0], together.slate[number])
        difference = np.abs(alone.entropy_after[0] - together.entropy_after[number]).max()
        assert difference <= CLOSE


def test_utilities_are_those_of_the_graph(native_library, session, weights, items):
    generator = NativeGenerator(native_library, weights)
    initialisers = read_initialisers(BUNDLE / EVALUATOR)
    evaluator = NativeEvaluator(
        native_library, evaluator_weights(initialisers, session.manifest.slate_length)
    )
    row = session.row(candidates_of(items[:30]))
    row = dataclasses.replace(row, sampling=SlateSampling(3, seed=1))
    slates = generator.run([row, row]).slate
    item_rows = session.featuriser.rows(row.encoded, "evaluator")
    utility = evaluator.run([row, row], [item_rows, item_rows], slates)
    expected = session.run([row])[0]
    assert utility[:3].max() == pytest.approx(expected.utility, abs=1e-6)
    assert int(utility[:3].argmax()) == expected.sample
    np.testing.assert_array_equal(utility[:3], utility[3:])
    assert utility[0] != pytest.approx(utility[1], abs=1e-6)


def candidates_of(ids):
    return CandidateList.from_json({"candidates": [{"id": item} for item in ids]})


def test_threads_run_one_generator_beside_each_other(native_library):
    pair = Pair(Network("transformer", 16, 1, 5, 2), 0, native_library)
    batches = [pair.draw(np.random.default_rng(seed), intents=True) for seed in range(12)]
    expected = [pair.native.run(rows).slate for rows in batches]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(pair.native.run, batches * 4))
    for one, other in zip(outputs, expected * 4, strict=True):
        np.testing.assert_array_equal(one.slate, other)
