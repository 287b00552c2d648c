"""Tokens of values of a request."""

import pytest

from service.engine.features.encoding import FeatureError
from service.engine.features.layout import Layout
from service.engine.features.schema import Feature, Schema


def encode(width, value):
    feature = Feature("code", "item", "categories", width=width, vocabulary=("M3", "M4"))
    return Layout(Schema("shop", (feature,))).encode_tokens(feature, [value], "code").tolist()


def test_plain_text_is_the_value_of_categories_of_width_1_as_in_a_log():
    assert encode(1, "M3") == encode(1, ["M3"]) == [[2]]


def test_plain_text_is_refused_where_a_list_may_have_several_values():
    with pytest.raises(FeatureError, match="code: a list of strings, got 'M3'"):
        encode(2, "M3")
