"""Records: their bytes, propensities, and the arrays that a featuriser makes of them."""

import dataclasses

import numpy as np
import ormsgpack
import pytest

from service.engine.features.candidates import CandidateList
from service.engine.features.ids import SentId
from service.journal.errors import RecordError
from service.journal.records import (
    Constraints,
    DecisionRecord,
    ErasureRecord,
    Intent,
    Policy,
    StoredValues,
    pack,
    record_of,
)
from tests.support.journals import decision, event
from tests.support.random_schemas import random_featuriser, random_list

FULL = decision(
    store=StoredValues("hit", 2, ["age"], [], 1.5, [b"\x80", None], 9, False),
    constraints=Constraints([-1], [0, 1], [1.0, 0.0]),
    intent=Intent([["genres", 0.4, 0.5, "sum"]], ["diversity"], {"genres": None}, None),
)


@pytest.mark.parametrize("record", [FULL, decision(), event(3, "u"), ErasureRecord("x", 5, "u")])
def test_a_record_is_read_as_it_was_written(record):
    assert record_of(ormsgpack.unpackb(pack(record))) == record


def test_a_name_that_a_later_version_adds_is_ignored():
    fields = ormsgpack.unpackb(pack(event())) | {"weather": "sun"}
    assert record_of(fields) == event()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "dream"}, "kind: must be one of decision, event, erasure"),
        ({"version": 2}, "version: must be 1, got 2"),
        ({"policy": 5}, "Policy: must be a map, got 5"),
    ],
)
def test_a_record_that_no_version_has_written_is_refused(change, message):
    fields = ormsgpack.unpackb(pack(decision())) | change
    with pytest.raises(RecordError, match=message):
        record_of(fields)


def test_a_record_without_a_name_that_it_needs_is_refused():
    fields = ormsgpack.unpackb(pack(decision()))
    del fields["slate"]
    with pytest.raises(RecordError, match="slate"):
        record_of(fields)


def test_greedy_slates_are_certain_and_sampled_ones_have_the_propensity_of_each_choice():
    sampled = Policy("explore", 0.1, 0.2, 3, 3, 0.5, 1.0, 1.0, seed=4, slates=1, kept=0)
    best = dataclasses.replace(sampled, kind="sampled", slates=8)
    assert decision().log_propensity().tolist() == [0.0]
    assert decision(policy=sampled).log_propensity().tolist() == [-0.5]
    assert decision(policy=best).log_propensity() is None
    assert decision(policy=sampled, logprob=[]).log_propensity().tolist() == [0.0]  # not ranked


def packed_columns(inputs):
    """Return the list with features as columns, numbers and vectors of all candidates as arrays."""
    records, columns = inputs.features, {}
    for name in inputs.names():
        values = [record.get(name) for record in records]
        numeric = all(isinstance(np.ravel(value)[0], np.number) for value in values if value)
        columns[name] = np.array(values, np.float32) if numeric and all(values) else values
    return dataclasses.replace(inputs, features=(), columns=columns)


def read_back(inputs):
    """Return the candidate list of a packed record of a list."""
    record = decision(
        user=inputs.user_id, user_features=inputs.user, history=inputs.history,
        history_features=inputs.history_features, context=inputs.context, ids=inputs.ids,
        scores=inputs.scores, features=inputs.features, columns=inputs.columns,
    )  # fmt: skip
    unpacked = record_of(ormsgpack.unpackb(pack(record)))
    assert isinstance(unpacked, DecisionRecord)
    return unpacked.candidate_list()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("form", ["records", "columns"])
def test_a_record_gives_the_same_arrays_bit_for_bit(seed, form):
    draw = np.random.default_rng(seed)
    featuriser = random_featuriser(draw)
    for _ in range(5):
        inputs = random_list(draw, featuriser.schema)
        inputs = packed_columns(inputs) if form == "columns" else inputs
        served, replayed = featuriser.transform(inputs), featuriser.transform(read_back(inputs))
        for one, other in zip(served, replayed, strict=True):
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()


def test_another_history_gives_other_arrays():
    """The comparison above would notice a value that the record loses."""
    draw = np.random.default_rng(0)
    while True:
        featuriser = random_featuriser(draw)
        inputs = random_list(draw, featuriser.schema)
        if inputs.history and featuriser.schema.history.kernels:
            break
    replayed = dataclasses.replace(read_back(inputs), history=())
    assert featuriser.transform(inputs)[0].tobytes() != featuriser.transform(replayed)[0].tobytes()


def test_ids_that_were_sent_as_numbers_are_recorded_as_text():
    inputs = CandidateList(ids=[SentId("9", 9)], user_id=SentId("7", 7))
    assert read_back(inputs).ids == ["9"]
    assert read_back(inputs).user_id == "7"


def test_an_array_of_any_layout_is_recorded():
    column = np.arange(8, dtype=np.float16).reshape(2, 4)[:, ::2]
    assert read_back(CandidateList(ids=["a", "b"], columns={"x": column})).columns == {
        "x": column.tolist()
    }


def test_a_value_that_messagepack_does_not_have_is_no_record():
    with pytest.raises(TypeError):
        pack(event(value=1 << 70))
