"""Lines of entities: parsing, refusing, merging, and writing them again."""

import pytest

from service.state.engine import Key, Value
from service.state.entities import Item, User
from service.state.errors import EntityError
from service.state.records import parse_record, record_of

USER: dict = {
    "user": "u1",
    "features": {"age": 31},
    "history": [{"id": "i1", "label": 0.5, "type": "like", "time": 5}, "i2", {"id": 3}],
    "updated_at": 9,
    "expires_at": 99,
}
ITEM = {
    "item": "i1",
    "features": {"price": 2.5, "genres": ["a", "b"]},
    "counters": {"like_rate": {"shows": 2.0, "likes": 1.0, "time": 4}},
}


def merged(*payloads, limit=128):
    value = None
    for payload in payloads:
        blob = None if value is None else value.blob
        value = parse_record(payload).merged(blob, now=100, limit=limit)
    return value


def test_a_line_is_written_as_it_was_read():
    value = merged(USER)
    assert value.expires_at == 99
    assert record_of(Key("user", "u1"), value) == {
        **USER,
        "history": {
            "id": ["i1", "i2", "3"],
            "label": [0.5, 1.0, 1.0],
            "type": ["like", None, None],
            "time": [5, None, None],
        },
    }
    assert record_of(Key("item", "i1"), merged(ITEM)) == {**ITEM, "updated_at": 100}


def answers_of(history):
    return parse_record({"user": "u", "history": history}).answers


def test_a_history_may_have_a_list_per_field():
    objects = [
        {"id": "a", "label": 0.5, "type": "like", "time": 3},
        {"id": "b", "label": 1.0, "type": "like", "time": 4},
    ]
    columns = {"id": ["a", "b"], "label": [0.5, 1.0], "type": ["like"] * 2, "time": [3, 4]}
    assert answers_of(columns) == answers_of(objects)
    assert answers_of({"id": [" a", 7], "time": None}) == answers_of(["a", "7"])
    assert answers_of({"id": ["a"]}) == answers_of(["a"])
    assert answers_of({"id": []}) == answers_of([])


def test_whole_numbers_are_labels_too():
    assert answers_of([{"id": "a", "label": 0}]).labels == [0.0]


def test_a_number_is_the_same_id_as_its_text():
    assert parse_record({"user": 42}).key == parse_record({"user": " 42 "}).key == ("user", "42")


def test_a_partial_record_leaves_the_other_parts_as_they_are():
    value = merged(USER, {"user": "u1", "features": {"city": "Oslo"}})
    user = User.from_blob(value.blob)
    assert user.features == {"age": 31, "city": "Oslo"}
    assert list(user.answers.items) == ["i1", "i2", "3"]
    assert value.expires_at is None


def test_null_removes_a_feature_and_a_counter():
    user = User.from_blob(merged(USER, {"user": "u1", "features": {"age": None}}).blob)
    item = Item.from_blob(merged(ITEM, {"item": "i1", "counters": {"like_rate": None}}).blob)
    assert (user.features, item.counters) == ({}, {})


def test_a_new_history_replaces_the_old_one_and_keeps_its_last_answers():
    value = merged(USER, {"user": "u1", "history": ["a", "b", "c"]}, limit=2)
    assert list(User.from_blob(value.blob).answers.items) == ["b", "c"]


def test_a_blob_that_no_store_has_written_is_replaced():
    value = parse_record(USER).merged(b"noise", now=1, limit=9)
    assert User.from_blob(value.blob).features == {"age": 31}


def test_features_of_two_schemas_together_have_no_fingerprint():
    first = parse_record(USER).merged(None, 1, 9, b"1" * 8)
    same = parse_record(USER).merged(first.blob, 1, 9, b"1" * 8)
    other = parse_record(USER).merged(first.blob, 1, 9, b"2" * 8)
    assert User.from_blob(same.blob).fingerprint == b"1" * 8
    assert User.from_blob(other.blob).fingerprint == b""


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([], "line: an object"),
        ({}, "line: one of the fields user and item"),
        ({"user": "a", "item": "b"}, "line: one of the fields user and item"),
        ({"user": " "}, "user: a text that is not blank"),
        ({"user": True}, "user: a text that is not blank"),
        ({"user": "x" * 481}, "user id: text of 1 to 480 bytes"),
        ({"user": "a", "counters": {}}, "counters: unknown field; must be one of expires_at"),
        ({"item": "a", "history": []}, "history: unknown field"),
        ({"user": "a", "features": []}, "features: an object"),
        ({"user": "a", "features": {"": 1}}, "features: names of 1 to 256"),
        ({"user": "a", "features": {"x": {}}}, "features.x: a number, a text"),
        ({"user": "a", "features": {"x": [1, "b"]}}, "features.x: a number, a text"),
        ({"user": "a", "features": {"x": float("nan")}}, "features.x: a number, a text"),
        ({"user": "a", "features": {"x": 10**400}}, "features.x: a number, a text"),
        ({"user": "a", "history": 5}, "history: a list, or an object of lists"),
        ({"user": "a", "history": {}}, "history.id: a list"),
        ({"user": "a", "history": {"id": ["b"], "x": [1]}}, "history.x: unknown field"),
        ({"user": "a", "history": {"id": ["b"], "label": [1.0, 0.5]}}, "history.label: a list as"),
        ({"user": "a", "history": {"id": ["b"], "label": [2]}}, r"history\[0\].label: a number"),
        ({"user": "a", "history": [{"id": "b", "label": float("nan")}]}, r"\[0\].label: a number"),
        ({"user": "a", "history": [None]}, r"history\[0\].id: a text"),
        ({"user": "a", "history": ["b", {"id": "\u00a0"}]}, r"history\[1\].id: a text"),
        ({"user": "a", "history": [{"id": "b", "label": 2}]}, r"history\[0\].label: a number from"),
        ({"user": "a", "history": [{"id": "b", "label": True}]}, r"history\[0\].label: a number"),
        ({"user": "a", "history": [{"id": "b", "type": 5}]}, r"history\[0\].type: a text of 1"),
        ({"user": "a", "history": {"id": ["b"], "type": [[]]}}, r"history\[0\].type: a text of 1"),
        ({"user": "a", "history": [{"id": "b", "label": 1.0, "type": {}}]}, r"\[0\].type: a text"),
        ({"user": "a", "history": [{"id": "b", "time": 0.5}]}, r"history\[0\].time: a whole"),
        ({"user": "a", "history": [{"id": "b", "x": 5}]}, r"history\[0\].x: unknown field"),
        ({"user": "a", "updated_at": -1}, "updated_at: a whole number of ms"),
        ({"user": "a", "expires_at": "soon"}, "expires_at: a whole number of ms"),
        ({"item": "a", "counters": []}, "counters: an object"),
        ({"item": "a", "counters": {"r": {"shows": 1}}}, "counters.r: an object with shows"),
        (
            {"item": "a", "counters": {"r": {"shows": 1, "likes": 2, "time": 0}}},
            "counters.r: numbers with 0 <= likes <= shows",
        ),
        (
            {"item": "a", "counters": {"r": {"shows": 1, "likes": 1, "time": None}}},
            "counters.r.time: a whole number",
        ),
    ],
)
def test_a_bad_line_is_refused_with_field_rule_and_value(payload, message):
    with pytest.raises(EntityError, match=message):
        parse_record(payload)


def test_the_value_of_a_refusal_is_cut():
    with pytest.raises(EntityError) as refusal:
        parse_record({"user": "a", "features": {"x": {"y": "z" * 1000}}})
    assert len(str(refusal.value)) < 300


def test_an_expired_time_of_a_value_is_kept_by_the_record():
    assert parse_record(USER).merged(None, 1, 1) == Value(merged(USER, limit=1).blob, 99)
