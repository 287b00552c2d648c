"""Ids in memory-mapped arrays: the positions of a dictionary, whatever their hashes."""

from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.contract import IDS_SUFFIXES
from service.engine.features import id_index
from service.engine.features.flat_files import read_array
from service.engine.features.id_index import HeldIds, MappedIds, read_ids, write_ids

TWINS = ("plumless", "buckeroo")  # two texts of one CRC-32


def mapped(directory, ids):
    """Return ids in mapped arrays, however few."""
    write_ids(directory, "ids", ids)
    return MappedIds(*(read_array(directory / f"ids.{suffix}") for suffix in IDS_SUFFIXES))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(max_size=6), unique=True, max_size=40),
    st.lists(st.text(max_size=6), max_size=10),
)
def test_positions_are_those_of_a_dictionary(tmp_path_factory, ids, others):
    index = mapped(tmp_path_factory.mktemp("ids"), ids)
    wanted = [*others, *reversed(ids)]
    assert index.find(wanted).tolist() == HeldIds(ids).find(wanted).tolist()
    assert list(index) == ids == [index[position] for position in range(len(ids))]


@pytest.mark.parametrize("held", [TWINS, TWINS[:1], TWINS[1:], ()])
def test_an_id_of_the_same_hash_is_not_taken_for_another(tmp_path, held):
    assert len({crc32(text.encode()) for text in TWINS}) == 1
    ids = ["a", *held, "b"]
    expected = [ids.index(text) if text in ids else len(ids) for text in TWINS]
    assert mapped(tmp_path, ids).find(TWINS).tolist() == expected


def test_without_the_comparison_of_bytes_a_twin_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(MappedIds, "_equal", lambda ids, positions, encoded: [True])
    assert mapped(tmp_path, ["a", TWINS[0]]).find(TWINS[1:]).tolist() == [1]


def test_a_repeated_id_is_refused_by_its_value(tmp_path):
    with pytest.raises(ValueError, match="ids must be distinct, 'b' stands 2 times"):
        write_ids(tmp_path, "ids", ["a", "b", "c", "b"])


def test_few_ids_are_held_and_many_are_mapped(tmp_path, monkeypatch):
    write_ids(tmp_path, "ids", ["a", "b"])
    assert isinstance(read_ids(tmp_path, "ids"), HeldIds)
    monkeypatch.setattr(id_index, "DICTIONARY_SIZE", 2)
    assert isinstance(read_ids(tmp_path, "ids"), MappedIds)
