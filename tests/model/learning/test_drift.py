"""The population stability index finds features that moved, and only those."""

import numpy as np

from model.data.growth import earlier_tokens, grow
from model.data.lists import Arrays, Lists
from model.learning import drift
from service.engine.features.layout import Layout
from service.engine.features.schema import Feature, Schema

IDS = tuple(f"i{number:03d}" for number in range(100))


def schema(ids=IDS):
    return Schema(
        "shop",
        (
            Feature("price", "item", "number"),
            Feature("tags", "item", "vector", width=2),
            Feature("item_id", "item", "identifier", vocabulary=ids),
            Feature("brand", "item", "category", vocabulary=("acme", "zeta")),
        ),
    )


def lists(seed, ids=IDS, shift=0.0, tag_shift=0.0, brands=("acme", "zeta"), missing=0.0):
    draw = np.random.default_rng(seed)
    layout = Layout(schema(ids))
    arrays = Arrays.zeros(200, 10, layout.numbers_width, layout.tokens_width)
    arrays.mask[:] = True
    arrays.numbers[:] = draw.standard_normal(arrays.numbers.shape)
    arrays.numbers[..., 0] += shift
    arrays.numbers[..., 2] += tag_shift
    for slot, (name, values) in enumerate((("item_id", ids), ("brand", brands))):
        values = draw.choice(values, 2000).tolist()
        tokens = layout.encode_tokens(layout.features[name], values, name)
        arrays.tokens[..., slot] = tokens.reshape(200, 10)
    arrays.tokens[draw.random((200, 10)) < missing, 1] = 0
    return Lists.of(arrays._asdict())


def drift_of(later, ids=IDS):
    before = drift.count_rows(lists(0), schema())
    grown = grow(schema(ids), schema())
    tokens = earlier_tokens(grown, schema())
    return drift.measure_drift(before, drift.count_rows(later, schema(), before, tokens))


def test_rows_of_the_same_law_have_not_drifted():
    indices = drift_of(lists(1))
    assert set(indices) == {"price", "tags", "item_id", "brand"}
    assert max(indices.values()) < 0.05


def test_each_feature_that_moved_has_drifted_and_no_other():
    for name, later in (
        ("price", lists(1, shift=0.7)),
        ("tags", lists(1, tag_shift=0.7)),
        ("brand", lists(1, brands=("acme", "acme", "acme", "acme", "zeta"))),
        ("brand", lists(1, missing=0.3)),
    ):
        indices = drift_of(later)
        assert [n for n, index in indices.items() if index > drift.DRIFTED] == [name]
        assert next(iter(indices)) == name


def test_values_that_the_earlier_vocabulary_lacks_are_drift():
    ids = tuple(sorted((*IDS, *(f"n{number}" for number in range(50)))))
    indices = drift_of(lists(1, ids), ids)
    assert indices["item_id"] > drift.DRIFTED
    assert indices["brand"] < 0.05


def test_the_index_of_two_rows_of_counts_is_that_of_its_formula():
    expected = (0.5 - 0.25) * np.log(0.5 / 0.25) + (0.5 - 0.75) * np.log(0.5 / 0.75)
    assert np.isclose(drift.population_stability([50, 50, 0], [25, 75, 0]), expected)
    assert np.isfinite(drift.population_stability([100, 0], [0, 100]))


def test_the_table_marks_drifted_features_only():
    header, moved, steady = drift.drift_table({"price": 0.31, "brand": 0.2})
    assert header.split() == ["feature", "PSI"]
    assert moved == "price     0.310  drifted (above 0.2)"
    assert steady == "brand     0.200"


def test_distributions_survive_their_file(tmp_path):
    counted = drift.count_rows(lists(0), schema())
    assert drift.load(tmp_path) is None
    drift.save(tmp_path, counted)
    assert drift.load(tmp_path) == counted
