"""Candidates with stored features: the same arrays and rows as with these features inline."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.contract import NETWORKS
from service.engine.features import stored_encoder
from service.engine.features.row_featuriser import RowFeaturiser, write_rows
from service.engine.features.stored_items import StoredItems
from service.state.entities import Item
from tests.support.random_schemas import (
    ITEMS,
    UNKNOWN,
    random_featuriser,
    random_list,
    random_value,
    random_weights,
)

NOW = 1_700_000_000_000


def random_items(draw, schema):
    """Return stored features by id for some of the items and unknown ids."""
    features = [
        {"name": f.name, "kind": f.kind, "width": f.width}
        for f in schema.features
        if f.of == "item" and f.name != "item_id"
    ]
    return {
        item: {f["name"]: random_value(draw, f) for f in features if draw.random() < 0.6}
        for item in [*ITEMS, UNKNOWN, "x"]
        if draw.random() < 0.8
    }


def with_stored(candidates, items, **fields):
    """Return the list with items of the store, by id."""
    blobs = [
        Item(items[item], updated_at=NOW - 1000, **fields).to_blob() if item in items else None
        for item in candidates.ids
    ]
    return dataclasses.replace(candidates, stored=StoredItems(blobs, Item.from_blob, NOW))


def with_inline(candidates, items):
    """Return the list with the same features inline, under those that it has."""
    stated = candidates.features or [{}] * len(candidates.ids)
    features = []
    for item, record in zip(candidates.ids, stated, strict=True):
        present = {name: value for name, value in record.items() if value is not None}
        features.append({**items.get(item, {}), **present})
    return dataclasses.replace(candidates, features=features)


def arrays_of(featuriser, candidates):
    """Return all arrays of a list that the network can read."""
    arrays = [*featuriser.transform(candidates)]
    if isinstance(featuriser, RowFeaturiser):
        encoded = featuriser.encode(candidates)
        arrays += [encoded.numbers[:, : featuriser.request_width], featuriser.tokens(encoded)]
        arrays += [featuriser.rows(encoded, network) for network in NETWORKS]
    return arrays


def assert_equal(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


@pytest.fixture
def unlimited(monkeypatch):
    """Clip nothing, as inline values are not clipped."""
    monkeypatch.setattr(stored_encoder, "RANGE", 1e6)


@pytest.mark.usefixtures("unlimited")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_stored_features_give_the_arrays_of_inline_ones_in_every_bit(
    tmp_path_factory, seed, inline
):
    draw = np.random.default_rng(seed)
    plain = random_featuriser(draw)
    directory = tmp_path_factory.mktemp("rows")
    write_rows(directory, plain, random_weights(draw, plain))
    rows = RowFeaturiser.load(directory)
    items = random_items(draw, plain.schema)
    for _ in range(4):
        candidates = random_list(draw, plain.schema, inline)
        if draw.random() < 0.5:
            items |= random_items(draw, plain.schema)
        for featuriser in (plain, rows):
            stored = arrays_of(featuriser, with_stored(candidates, items))
            assert_equal(stored, arrays_of(featuriser, with_inline(candidates, items)))
