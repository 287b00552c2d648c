"""Events: checks by field, rule and value, and what they do to users and items."""

import dataclasses
import re

import numpy as np
import ormsgpack
import pytest

from service.engine.features.event_types import EventType
from service.engine.features.featuriser import Featuriser
from service.engine.features.schema import LabelScale
from service.engine.features.snapshot import Snapshot, StatisticCounts
from service.state.counters import added
from service.state.engine import KEEP_EXPIRY, Key
from service.state.entities import (
    UNKNOWN_SCHEMA,
    Answers,
    Counter,
    Item,
    User,
    fingerprint_of,
    with_answers,
)
from service.state.errors import EntityError
from service.state.events import EventRules, inserted
from tests.support.features import featuriser

NOW = 1_700_000_000_000
AS_OF, HALF_LIFE = NOW - 86_400_000, 7 * 86_400_000
EVENT = {"event_id": "e1", "user": "u1", "item": "a", "type": "like"}
TYPES = {
    "like": EventType(1.0),
    "pass": EventType(0.0),
    "buy": EventType(1.0, weight=3.0, show=False),
    "see": EventType(None, weight=0.5),
    "hide": EventType(0.0, weight=2.0),
}


def rules_of(types=TYPES, limit=4, counted=True, **label):
    """Return rules over the items a, b and c; a had 10 shows and 4 likes as of AS_OF."""
    before = featuriser()
    schema = dataclasses.replace(before.schema, events=types, label=LabelScale(**label))
    counts = StatisticCounts(
        np.array([10.0, 0.0, 3.0, 0.0]), np.array([4.0, 0.0, 3.0, 0.0]), 13.0, 7.0, None, HALF_LIFE
    )
    snapshot = Snapshot(AS_OF, {"like_rate": counts}) if counted else None
    return EventRules(Featuriser(schema, before.items, snapshot), limit)


@pytest.fixture(scope="module")
def rules():
    return rules_of()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_id": None}, "event_id: a text of 1 to 256 characters that is not blank, or an"),
        ({"event_id": "x" * 257}, "event_id: a text of 1 to 256 characters"),
        ({"user": " "}, "user: a text of 1 to 256 characters that is not blank, or an integer"),
        ({"user": True}, "user: a text of 1 to 256 characters that is not blank, or an integer"),
        ({"item": 1.5}, "item: a text of 1 to 256 characters that is not blank, or an integer"),
        ({"item": "€" * 200}, "item: text of 1 to 480 bytes in UTF-8, got"),
        ({"type": "lik"}, "type: one of like, pass, buy, see, hide, got 'lik'"),
        ({"type": None}, "type: one of like, pass, buy, see, hide, got None"),
        ({"type": ["like"]}, "type: one of like, pass, buy, see, hide, got ['like']"),
        ({"time": -1}, "time: a whole number of ms since 1970 UTC, got -1"),
        ({"time": 1.5}, "time: a whole number of ms since 1970 UTC, got 1.5"),
        ({"time": NOW + 60_001}, "time: a whole number of ms since 1970 UTC, at most 60 s ahead"),
        ({"label": 1.5}, "label: a number from 0 to 1, got 1.5"),
        ({"label": True}, "label: a number from 0 to 1, got True"),
        ({"type": "see", "label": 1}, "label: absent for a type that adds no answer, got 1"),
        ({"shown": "a"}, "shown: a list of at most 1000 ids, got 'a'"),
        ({"shown": ["a"] * 1001}, "shown: a list of at most 1000 ids, got"),
        ({"shown": ["a", None]}, "shown[1]: a text of 1 to 256 characters"),
        ({"weight": 2}, "weight: unknown field; must be one of event_id, item, label, position"),
        ({"request_id": 5}, "request_id: the request_id of a response, a text of 1 to 128 char"),
        ({"request_id": ""}, "request_id: the request_id of a response, a text of 1 to 128 char"),
        ({"request_id": "r" * 129}, "request_id: the request_id of a response, a text of 1 to"),
        ({"position": 1}, "position: absent without the request_id of its slate, got 1"),
        ({"request_id": "r", "position": -1}, "position: a whole number from 0 on, the place in"),
        ({"request_id": "r", "position": True}, "position: a whole number from 0 on, the place"),
        ({"value": float("inf")}, "value: a finite number, got inf"),
        ({"value": "9"}, "value: a finite number, got '9'"),
        ({"user": None}, "user: a text of 1 to 256 characters that is not blank, or an integer"),
    ],
)
def test_a_bad_event_is_refused_naming_field_rule_and_value(rules, change, message):
    with pytest.raises(EntityError, match=re.escape(message)):
        rules.parse({**EVENT, **change}, NOW)


@pytest.mark.parametrize("payload", [None, [], "like", 3])
def test_a_value_that_is_no_object_is_refused(rules, payload):
    with pytest.raises(EntityError, match="an object"):
        rules.parse(payload, NOW)


def test_ids_follow_the_rule_of_requests(rules):
    event = rules.parse({**EVENT, "event_id": 9, "user": 1.0, "item": " a "}, NOW)
    assert (event.event_id, event.user, event.item) == ("9", "1", "a")
    assert [type(each) for each in (event.event_id, event.user, event.item)] == [str] * 3
    assert event.time == NOW
    assert rules.parse({**EVENT, "time": NOW + 60_000}, NOW).time == NOW + 60_000


def test_a_mark_is_of_the_user_and_the_id_of_the_event(rules):
    def mark(**change):
        return rules.parse({**EVENT, **change}, NOW).mark()

    assert mark() == mark(type="pass", time=5) == mark(item="b")
    pairs = [("u1", "e1"), ("u1", "e2"), ("u2", "e1"), ("u", "1e1"), ("u1e", "1")]
    assert len({mark(user=user, event_id=event_id) for user, event_id in pairs}) == len(pairs)
    assert len(mark()) == 16


def test_an_event_of_a_request_needs_no_user_and_moves_items_alone(rules):
    stated = {"request_id": " r 1", "position": 2, "value": 3, "user": None, "shown": ["a", "b"]}
    event = rules.parse({**EVENT, **stated}, NOW)
    assert (event.user, event.request_id, event.position, event.value) == (None, " r 1", 2, 3.0)
    assert (event.displays, event.order) == (True, ["a", "b"])
    assert event.entities() == [Key("item", "a"), Key("item", "b")]
    assert not rules.parse({**EVENT, "request_id": "r"}, NOW).displays


def test_a_mark_without_a_user_is_of_the_request_and_the_event(rules):
    def mark(request, event_id="e1", user=None):
        change = {"request_id": request, "event_id": event_id, "user": user}
        return rules.parse({**EVENT, **change}, NOW).mark()

    marks = [mark("r1"), mark("r2"), mark("r1", "e2"), mark("r", "1e1"), mark("r1", user="r1")]
    assert len(set(marks)) == len(marks)
    assert mark("r1", user="u1") == mark("r2", user="u1")


def test_only_items_of_shown_without_the_event_count_as_passed_over(rules):
    event = rules.parse({**EVENT, "shown": ["b", "a", "c", "b"]}, NOW)
    assert (event.shows, event.order) == (["b", "c"], ["b", "a", "c"])
    event = rules.parse({**EVENT, "shown": ["b"]}, NOW)
    assert (event.shows, event.order) == (["b"], ["b", "a"])
    assert rules.parse({**EVENT, "shown": []}, NOW).shows == []
    assert rules.parse(EVENT, NOW).entities() == [Key("user", "u1"), Key("item", "a")]


def parsed(rules, displayed=None, **change):
    more = {} if displayed is None else {"shown": displayed}
    return rules.parse({**EVENT, **change, **more}, NOW)


def user_after(rules, blob, **change):
    value = rules.user_after(blob, parsed(rules, **change), NOW)
    assert value.expires_at == KEEP_EXPIRY
    return value.blob


def history_of(blob):
    answers = User.from_blob(blob).answers
    columns = answers.items, answers.labels, answers.types, answers.times
    return [tuple(entry) for entry in zip(*columns, strict=True)]


def test_an_event_makes_the_user_and_adds_its_answers_in_the_order_of_display(rules):
    blob = user_after(rules, None, displayed=["b", "a", "c"], time=5)
    assert history_of(blob) == [("b", 0.0, "pass", 5), ("a", 1.0, "like", 5), ("c", 0.0, "pass", 5)]
    user = User.from_blob(blob)
    assert (user.updated_at, user.features) == (NOW, {})
    assert user.fingerprint == fingerprint_of(rules.featuriser.schema)


def test_a_late_event_lands_in_its_place_and_the_earliest_answers_leave(rules):
    blob = None
    for number, time in enumerate([30, 10, 20, 10, 40]):
        blob = user_after(rules, blob, item=f"i{number}", time=time)
    assert [(item, time) for item, _, _, time in history_of(blob)] == [
        ("i3", 10), ("i2", 20), ("i0", 30), ("i4", 40),
    ]  # fmt: skip
    blob = user_after(rules, blob, item="early", time=5)
    assert [item for item, *_ in history_of(blob)] == ["i3", "i2", "i0", "i4"]


def test_answers_without_a_time_count_as_earlier(rules):
    old = User({"age": 3}, Answers(["x", "y"], [1.0, 0.0], [None, None], [None, None]), 7)
    blob = user_after(rules, old.to_blob(), time=5)
    assert [item for item, *_ in history_of(blob)] == ["x", "y", "a"]
    assert User.from_blob(blob).features == {"age": 3}
    assert User.from_blob(blob).fingerprint == UNKNOWN_SCHEMA


def test_a_type_without_a_label_adds_no_answer_and_moves_the_users_time(rules):
    blob = user_after(rules, None, type="see")
    assert history_of(blob) == []
    assert User.from_blob(blob).updated_at == NOW


def test_the_label_of_an_event_overrides_that_of_its_type(rules):
    assert history_of(user_after(rules, None, label=0.25))[0][1] == 0.25
    assert history_of(user_after(rules, None, type="hide"))[0][1] == 0.0


def test_a_history_with_too_many_types_takes_the_event_without_them():
    rules = rules_of(limit=300)
    names = [f"t{number}" for number in range(255)]
    old = User({}, Answers(["x"] * 255, [1.0] * 255, names, [None] * 255))
    entries = history_of(user_after(rules, old.to_blob()))
    assert len(entries) == 256
    assert {kind for _, _, kind, _ in entries} == {None}


def test_bytes_that_no_store_has_written_are_replaced(rules):
    assert len(history_of(user_after(rules, b"noise"))) == 1
    assert item_after(rules, b"noise", "a").counters["like_rate"].shows > 10


def item_after(rules, blob, changed, **change):
    event = parsed(rules, **change)
    value = rules.item_after(blob, event, Key("item", changed), NOW)
    return None if value is None else Item.from_blob(value.blob)


def aged(count, since=AS_OF):
    return count * 2.0 ** (-(NOW - since) / HALF_LIFE)


@pytest.mark.parametrize(
    ("change", "changed", "counter"),
    [
        ({}, "a", (aged(10) + 1, aged(4) + 1)),
        ({"type": "pass"}, "a", (aged(10) + 1, aged(4))),
        ({"type": "hide"}, "a", (aged(10) + 2, aged(4))),
        ({"type": "see"}, "a", (aged(10) + 0.5, aged(4))),
        ({"type": "buy"}, "a", (aged(10), aged(4) + 3)),
        ({"label": 0.25}, "a", (aged(10) + 1, aged(4))),
        ({"displayed": ["c"]}, "c", (aged(3) + 1, aged(3))),
        ({"item": "new"}, "new", (1, 1)),
        ({"item": "new", "type": "buy"}, "new", (0, 0)),
    ],
)
def test_an_event_moves_the_counter_that_the_counts_of_the_bundle_began(
    rules, change, changed, counter
):
    stored = item_after(rules, None, changed, **change)
    moved = stored.counters["like_rate"]
    assert (moved.shows, moved.likes) == pytest.approx(counter, rel=1e-12)
    assert moved.time == NOW


def test_a_counter_is_begun_once_and_later_bundles_add_nothing(rules):
    old = Item({"price": 3.0}, {"like_rate": Counter(2.0, 1.0, NOW)}, updated_at=7)
    stored = item_after(rules, old.to_blob(), "a")
    assert stored.counters["like_rate"] == Counter(3.0, 2.0, NOW)
    assert (stored.features, stored.updated_at) == ({"price": 3.0}, 7)


def test_a_late_event_counts_less():
    rules = rules_of()
    old = Item({}, {"like_rate": Counter(2.0, 1.0, NOW)})
    stored = item_after(rules, old.to_blob(), "a", time=NOW - HALF_LIFE)
    assert stored.counters["like_rate"] == Counter(2.5, 1.5, NOW)
    assert stored.counters["like_rate"] == added(
        old.counters["like_rate"], 1.0, 1.0, NOW - HALF_LIFE, HALF_LIFE
    )


def test_graded_labels_count_by_their_gain():
    rules = rules_of(range=(0, 2), gain_form="exponential")
    old = Item({}, {"like_rate": Counter(0.0, 0.0, NOW)}).to_blob()
    moved = item_after(rules, old, "a", label=0.5).counters["like_rate"]
    assert moved.likes == pytest.approx(1 / 3, abs=1e-6)


def test_without_counts_of_the_bundle_no_counter_begins():
    assert item_after(rules_of(counted=False), None, "a") is None
    old = Item({}, {"like_rate": Counter(2.0, 1.0, NOW)}).to_blob()
    moved = item_after(rules_of(counted=False), old, "a").counters["like_rate"]
    assert (moved.shows, moved.likes) == (3.0, 2.0)


def test_a_schema_without_the_type_pass_has_passed_over_items_with_a_label_of_0():
    rules = rules_of({"like": EventType(1.0)})
    blob = user_after(rules, None, displayed=["b"], time=5)
    assert history_of(blob)[0] == ("b", 0.0, "pass", 5)
    assert item_after(rules, None, "b", displayed=["b"]).counters["like_rate"].shows == 1.0


def test_appending_without_reading_gives_the_bytes_of_reading_and_inserting(rules):
    """Labels, types and times of many events; some are late and take the slow way."""
    generator = np.random.default_rng(0)
    rules, blob, slow = rules_of(limit=20), None, None
    late = 0
    for number in range(200):
        change = {
            "item": f"i{number}",
            "type": ["like", "pass", "see", "hide"][generator.integers(4)],
            "time": 1000 + 10 * number - int(generator.integers(0, 25)),
            "displayed": [f"d{each}" for each in range(generator.integers(3))],
        }
        if change["type"] != "see":
            change["label"] = float(generator.random())
        event = parsed(rules, **change)
        with_slow = User() if slow is None else User.from_blob(slow)
        answers = [
            (item, event.label, event.type) if item == event.item else (item, 0.0, "pass")
            for item in event.order
            if item != event.item or event.label is not None
        ]
        late += any((time or 0) > event.time for time in with_slow.answers.times)
        with_slow.answers = inserted(with_slow.answers, answers, event.time).last(20)
        with_slow.updated_at = NOW
        slow = with_slow.to_blob()
        blob = user_after(rules, blob, **change)
        assert history_of(blob) == history_of(slow)
        assert User.from_blob(blob).updated_at == NOW
    assert 10 < late < 190


@pytest.mark.parametrize(
    "change",
    [
        {"h": None}, {"h": [[], b"", [], b""]}, {"h": [["a"], b"", [], b"", b""]}, {"u": "x"},
        {"v": 2}, {"h": [["a"], b"xxxx", [], b"x", "x" * 8]}, {"h": [[1], b"1234", [], b"", b""]},
        {"h": [["a"], bytes(4), "", b"\0", bytes(8)]},
    ],
)  # fmt: skip
def test_bytes_of_another_form_are_not_appended_to(rules, change):
    blob = user_after(rules, None, time=5)
    answers = [("a", 1.0, "like")]
    assert with_answers(blob, answers, 5, 4, NOW) is not None
    assert with_answers(blob, answers, 4, 4, NOW) is None
    broken = ormsgpack.packb({**ormsgpack.unpackb(blob), **change})
    assert with_answers(broken, answers, 5, 4, NOW) is None
    assert with_answers(b"noise", answers, 5, 4, NOW) is None
