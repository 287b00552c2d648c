"""Item rows: with the columns of the request they sum to what the whole embedding does."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.contract import ITEM_WORDS, NETWORKS
from service.engine.features import id_index, item_files
from service.engine.features.attributes import groups_of
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.id_index import MappedIds
from service.engine.features.item_half import ItemHalf
from service.engine.features.row_featuriser import RowFeaturiser, write_rows
from service.engine.features.schema import Feature, Schema
from tests.support.random_schemas import (
    ITEMS,
    UNKNOWN,
    random_featuriser,
    random_list,
    random_weights,
)

CLOSE = 5e-6


def whole_sum(featuriser, weights, candidates):
    """Return the embedding before its activation and bias, float64 [N, D]."""
    numbers, tokens = featuriser.transform(candidates)
    embedded = weights.embeddings[tokens].sum(axis=1, dtype=np.float64)
    return numbers.astype(np.float64) @ weights.projection + embedded


def sum_of_rows(rows, plain, weights, candidates, network):
    """Return the same from item rows and the columns of the request."""
    encoded = rows.encode(candidates)
    numbers = encoded.numbers[:, : rows.request_width].astype(np.float64)
    projection = weights.projection[plain.request_columns]
    return rows.rows(encoded, network) + numbers @ projection


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_rows_and_request_columns_sum_to_the_whole_embedding(tmp_path_factory, seed, inline):
    draw = np.random.default_rng(seed)
    plain = random_featuriser(draw)
    weights = random_weights(draw, plain)
    directory = tmp_path_factory.mktemp("rows")
    write_rows(directory, plain, weights)
    rows = RowFeaturiser.load(directory)
    for _ in range(3):
        candidates = random_list(draw, plain.schema, inline)
        whole, again = plain.transform(candidates), rows.transform(candidates)
        np.testing.assert_array_equal(whole[0], again[0], strict=True)
        np.testing.assert_array_equal(whole[1], again[1], strict=True)
        for network in NETWORKS:
            expected = whole_sum(plain, weights[network], candidates)
            summed = sum_of_rows(rows, plain, weights[network], candidates, network)
            np.testing.assert_allclose(summed, expected, rtol=0, atol=CLOSE)


def test_a_row_that_leaves_out_the_tokens_of_inline_features_does_not_sum_up(tmp_path, monkeypatch):
    draw = np.random.default_rng(3)
    plain = random_featuriser(draw)
    weights = random_weights(draw, plain)
    write_rows(tmp_path, plain, weights)
    rows = RowFeaturiser.load(tmp_path)
    lists = [random_list(draw, plain.schema) for _ in range(8)]

    def errors():
        for candidates in lists:
            expected = whole_sum(plain, weights["generator"], candidates)
            yield sum_of_rows(rows, plain, weights["generator"], candidates, "generator") - expected

    assert max(np.abs(error).max() for error in errors()) < CLOSE
    embed = ItemHalf.embed
    monkeypatch.setattr(ItemHalf, "embed", lambda half, tokens: 0.0 * embed(half, tokens))
    assert max(np.abs(error).max() for error in errors()) > 0.1


def test_an_inline_item_id_takes_the_embedding_of_that_item(tmp_path):
    draw = np.random.default_rng(0)
    vocabulary = ITEMS[:5]  # the others are in the table alone
    feature = Feature("item_id", "item", "identifier", vocabulary=tuple(vocabulary))
    schema = Schema("ids", (feature,))
    tokens = np.array([[2 + i if i < 5 else 1] for i in range(len(ITEMS))])
    table = ItemTable(ITEMS, np.zeros((len(ITEMS), 0), np.float32), tokens, {})
    plain = Featuriser(schema, table)
    weights = random_weights(draw, plain)
    write_rows(tmp_path, plain, weights)
    rows = RowFeaturiser.load(tmp_path)
    ids = [ITEMS[0], ITEMS[1], ITEMS[7], UNKNOWN, ITEMS[2]]
    inline = [{"item_id": item} for item in (ITEMS[3], UNKNOWN, ITEMS[0], ITEMS[1])] + [{}]
    sent = CandidateList(ids, features=inline)
    expected = weights["generator"].embeddings[plain.transform(sent)[1][:, 0]]
    np.testing.assert_allclose(rows.rows(rows.encode(sent), "generator"), expected, atol=1e-6)
    assert rows.halves["generator"]._embeddings.shape[0] == 1  # the rows alone hold those of ids
    assert groups_of(rows, "item_id", rows.tokens(rows.encode(sent))) == [
        ITEMS[3], None, ITEMS[0], ITEMS[1], ITEMS[2],
    ]  # fmt: skip


def test_a_changed_value_in_the_table_and_in_the_request_give_the_same_row(tmp_path):
    draw = np.random.default_rng(1)
    price = Feature("price", "item", "number", relative=True, mean=1.0, std=2.0)
    look = Feature("look", "item", "vector", width=2)
    schema = Schema("shop", (price, look))
    vectors = {"look": draw.normal(size=(2, 2)).astype(np.float32)}
    before = ItemTable(
        ("a", "b"), np.array([[0.5], [1.0]], np.float32), np.zeros((2, 0), int), vectors
    )
    after = dataclasses.replace(before, numbers=np.array([[3.0], [1.0]], np.float32))
    weights, featurisers = None, []
    for name, table in (("before", before), ("after", after)):
        plain = Featuriser(schema, table)
        weights = weights or random_weights(draw, plain)
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, plain, weights)
        featurisers.append(RowFeaturiser.load(tmp_path / name))
    sent = CandidateList(["a", "b"], columns={"price": [7.0, None]})  # (7 - 1) / 2 = 3
    ids = CandidateList(["a", "b"])
    one, other = featurisers[0].encode(sent), featurisers[1].encode(ids)
    width = featurisers[0].request_width
    assert np.array_equal(one.numbers[:, :width], other.numbers[:, :width])
    for network in NETWORKS:
        rows = [f.rows(e, network) for f, e in zip(featurisers, (one, other), strict=True)]
        np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=2e-7 * np.abs(rows[0]).max())
        assert (
            np.abs(rows[0] - featurisers[0].rows(featurisers[0].encode(ids), network)).max() > 0.1
        )


def test_a_vocabulary_in_files_encodes_as_one_in_the_schema(tmp_path, monkeypatch):
    monkeypatch.setattr(item_files, "LARGE_VOCABULARY", 3)
    monkeypatch.setattr(id_index, "DICTIONARY_SIZE", 3)
    draw = np.random.default_rng(5)
    words = tuple(f"w{number}" for number in range(9))
    features = (
        Feature("brand", "item", "category", vocabulary=words),
        Feature("user_id", "user", "identifier", vocabulary=words),
        Feature("item_id", "item", "identifier", vocabulary=(*ITEMS[1:], "gone")),
    )
    nothing = Featuriser(Schema("s", features), no_items(2))
    encoded = CandidateList(ITEMS, columns={"brand": [*words[::-1]], "item_id": ITEMS})
    tokens = nothing.transform(encoded)[1][:, [0, 2]]
    plain = Featuriser(
        Schema("s", features), ItemTable(ITEMS, np.zeros((9, 0), np.float32), tokens, {})
    )
    write_rows(tmp_path, plain, random_weights(draw, plain))
    rows = RowFeaturiser.load(tmp_path)
    assert isinstance(rows.vocabulary("user_id"), MappedIds)
    assert isinstance(rows.items.ids, MappedIds)
    assert ITEM_WORDS in {path.name for path in tmp_path.iterdir()}
    assert "w5" not in (tmp_path / "features.json").read_text()
    sent = CandidateList([*ITEMS[4:], UNKNOWN], user_id="w7", columns={"brand": ["w1", "?"] * 3})
    np.testing.assert_array_equal(rows.transform(sent)[1], plain.transform(sent)[1])
    assert groups_of(rows, "brand", rows.transform(sent)[1]) == ["w1", None] * 3


def no_items(slots):
    """Return an empty table of items with this many token slots."""
    return ItemTable((), np.zeros((0, 0), np.float32), np.zeros((0, slots), np.int64), {})
