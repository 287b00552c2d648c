"""The user of a request, filled from the entity store."""

import dataclasses

import pytest

from service.engine.features.candidates import CandidateList
from service.engine.features.schema import Schema
from service.ranking.stored_user import StateUse, with_stored_user, without
from service.state.entities import Answers, User
from service.state.store import MISS, UNAVAILABLE, UserLookup

SCHEMA = Schema.from_dict(
    {
        "name": "a",
        "history": {"limit": 2},
        "features": [
            {"name": "age", "of": "user", "kind": "number"},
            {"name": "city", "of": "user", "kind": "category"},
            {"name": "user_id", "of": "user", "kind": "identifier"},
            {"name": "price", "of": "item", "kind": "number"},
        ],
    }
)
ANSWERS = Answers(["i1", "i2", "i3"], [1.0, 0.0, 0.5], [None] * 3, [None] * 3)
STORED = User({"age": 31, "city": "Oslo", "price": 1.0, "user_id": "x", "gone": 2}, ANSWERS)
HIT = UserLookup("hit", STORED, 7.5)


def candidates(**fields):
    return CandidateList(ids=["i9"], user_id="u1", **fields)


def test_the_history_and_features_of_the_store_are_used():
    filled, use = with_stored_user(candidates(), HIT, False, SCHEMA)
    assert filled.history == [("i2", 0.0), ("i3", 0.5)]
    assert filled.user == {"age": 31, "city": "Oslo"}
    assert use == StateUse("hit", 2, ("age", "city"), ("price", "user_id", "gone"), 7.5)


def test_the_history_of_a_user_is_one_object_for_each_limit():
    first, _ = with_stored_user(candidates(), HIT, False, SCHEMA)
    assert with_stored_user(candidates(), HIT, False, SCHEMA)[0].history is first.history
    longer = dataclasses.replace(SCHEMA, history=dataclasses.replace(SCHEMA.history, limit=9))
    assert len(with_stored_user(candidates(), HIT, False, longer)[0].history) == 3


def test_inline_values_take_precedence():
    inline = candidates(history=[("i7", 1.0)], user={"age": 40, "city": None})
    filled, use = with_stored_user(inline, HIT, True, SCHEMA)
    assert filled.history == [("i7", 1.0)]
    assert filled.user == {"age": 40, "city": "Oslo"}
    assert (use.history, use.features) == (0, ("city",))


def test_an_empty_inline_history_takes_precedence_too():
    filled, use = with_stored_user(candidates(), HIT, True, SCHEMA)
    assert (filled.history, use.history) == ((), 0)


def test_a_list_of_a_user_whom_the_store_lacks_stays_as_it_is():
    inputs = candidates()
    assert with_stored_user(inputs, MISS, False, SCHEMA) == (inputs, StateUse("miss"))
    assert not StateUse("miss").failed


def test_a_list_whose_user_could_not_be_looked_up_may_lack_required_features():
    inputs = candidates()
    filled, use = with_stored_user(inputs, UNAVAILABLE, False, SCHEMA)
    assert filled == dataclasses.replace(inputs, user_is_partial=True)
    assert use == StateUse("unavailable")
    assert use.failed


def test_a_required_feature_whose_stored_value_was_refused_may_be_absent():
    inputs, use = with_stored_user(candidates(), HIT, False, SCHEMA)
    refused = without(inputs, use, "user.features.age")
    assert refused is not None
    assert not refused[1].failed
    absent = without(*refused, "user.features.age")
    assert absent is not None
    assert (absent[0].user_is_partial, absent[1].failed) == (True, True)
    assert without(*absent, "user.features.age") is None


def test_a_stored_feature_that_an_error_names_is_left_out():
    inputs, use = with_stored_user(candidates(), HIT, False, SCHEMA)
    rest = without(inputs, use, "user.features.age")
    assert rest is not None
    assert rest[0].user == {"city": "Oslo"}
    assert (rest[1].features, rest[1].ignored[-1]) == (("city",), "age")


@pytest.mark.parametrize("path", ["user.features.age", "user.id", "candidates[0].features.price"])
def test_an_error_of_the_request_names_no_stored_feature(path):
    inputs, use = with_stored_user(candidates(user={"age": "old"}), HIT, True, SCHEMA)
    assert without(inputs, use, path) is None
