"""A schema grows over the schema of a checkpoint, or is refused where declarations differ."""

import dataclasses

import numpy as np
import pytest

from model.data.growth import ABSENT, earlier_tokens, grow
from service.engine.features.layout import Layout
from service.engine.features.schema import Feature, History, LabelScale, Schema
from service.engine.features.schema_rules import SchemaError

PRICE = Feature("price", "item", "number", mean=5.0, std=2.0)
BRAND = Feature("brand", "item", "category", vocabulary=("acme", "zeta"))
GENRES = Feature("genres", "item", "categories", width=2, vocabulary=("b",))
RATE = Feature("rate", "item", "statistic", default=-1.0, mean=-1.0, std=0.5)
EARLIER = Schema("shop", (PRICE, BRAND, GENRES, RATE))
LATER = Schema(
    "shop",
    (
        dataclasses.replace(PRICE, mean=7.0, std=3.0),
        dataclasses.replace(BRAND, vocabulary=("acme", "beta")),
        dataclasses.replace(GENRES, vocabulary=("a", "b")),
        dataclasses.replace(RATE, default=-2.0, mean=-2.0),
    ),
)


def test_a_grown_schema_has_the_earlier_moments_and_the_values_of_both():
    price, brand, genres, rate = grow(LATER, EARLIER).features
    assert (price.mean, price.std) == (5.0, 2.0)
    assert brand.vocabulary == ("acme", "beta", "zeta")
    assert genres.vocabulary == ("a", "b")
    # The rate of an item without shows is that of the new data, in earlier units.
    assert (rate.default, rate.mean, rate.std) == (-2.0, -1.0, 0.5)


def test_growing_twice_changes_nothing():
    grown = grow(LATER, EARLIER)
    assert grow(LATER, grown) == grown


def test_each_token_of_a_grown_schema_has_the_earlier_token_of_its_value():
    grown = grow(LATER, EARLIER)
    tokens = earlier_tokens(grown, EARLIER)
    layouts = Layout(grown), Layout(EARLIER)
    for feature, value in (("brand", "acme"), ("brand", "zeta"), ("genres", ["b"]), ("brand", "?")):
        after, before = (
            int(layout.encode_tokens(layout.features[feature], [value], "")[0, 0])
            for layout in layouts
        )
        assert tokens[after] == before, (feature, value)
    beta = layouts[0].encode_tokens(layouts[0].features["brand"], ["beta"], "")[0, 0]
    assert tokens[beta] == ABSENT
    assert tokens[0] == 0
    assert np.unique(tokens[tokens != ABSENT]).size == layouts[1].vocabulary_size


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (("size", "item", "number"), r"features\.size: must be absent, because the checkpoint lac"),
        (None, r"features\.rate: must be declared, because the checkpoint has it"),
        ({"kind": "identifier"}, r"features\.brand\.kind: must be 'category' as in the checkpoint"),
        ({"of": "user"}, r"features\.brand\.of: must be 'item' as in the checkpoint, got 'user'"),
        (History(kernels=("genres",)), r"history\.kernels: must be \(\) as in the checkpoint"),
        (LabelScale((0, 4), "linear"), r"label\.range: must be \(0\.0, 1\.0\) as in the checkp"),
        ("order", r"features: must be declared in the order of the checkpoint, price, brand"),
    ],
)
def test_other_declarations_are_refused_by_field_and_value(later, message):
    features = LATER.features
    schema = LATER
    if later is None:
        schema = dataclasses.replace(LATER, features=features[:-1])
    elif isinstance(later, tuple):
        schema = dataclasses.replace(LATER, features=(*features, Feature(*later)))
    elif isinstance(later, dict):
        brand = dataclasses.replace(BRAND, **later)
        schema = dataclasses.replace(LATER, features=(features[0], brand, *features[2:]))
    elif isinstance(later, History):
        schema = dataclasses.replace(LATER, history=later)
    elif isinstance(later, LabelScale):
        schema = dataclasses.replace(LATER, label=later)
    else:
        schema = dataclasses.replace(LATER, features=features[::-1])
    with pytest.raises(SchemaError, match=message):
        grow(schema, EARLIER)


def test_a_wider_list_of_categories_is_refused_and_another_name_or_count_is_not():
    wider = dataclasses.replace(GENRES, width=3)
    features = LATER.features
    schema = dataclasses.replace(LATER, features=(*features[:2], wider, features[3]))
    with pytest.raises(SchemaError, match=r"features\.genres\.width: must be 2 .* got 3"):
        grow(schema, EARLIER)
    rarer = dataclasses.replace(features[1], min_count=5)
    grow(Schema("other name", (features[0], rarer, *features[2:])), EARLIER)
