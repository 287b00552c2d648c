"""Values of features with tokens, read back from the tokens of candidates."""

import pytest

from service.engine.features.attributes import candidate_values, groups_of, values_of
from service.engine.features.candidates import CandidateList
from tests.support.features import featuriser


def test_the_values_of_candidates_are_those_of_their_items():
    tiny = featuriser()
    tokens = tiny.transform(CandidateList(["c", "a", "unknown"]))[1]
    assert candidate_values(tiny, "genres", tokens) == [("x", "y"), ("x",), ()]
    assert candidate_values(tiny, "brand", tokens) == [(), ("acme",), ()]


def test_a_feature_of_the_context_has_no_values_that_candidates_could_differ_in():
    tiny = featuriser()
    tokens = tiny.transform(CandidateList(["a", "b"], context={"hour": "9"}))[1]
    assert values_of(tiny, "hour", tokens) == [("9",), ("9",)]
    for name in ("hour", "age", "price", "style", "absent"):
        with pytest.raises(KeyError):
            candidate_values(tiny, name, tokens)
    assert groups_of(tiny, "hour", tokens) == ["9", "9"]
