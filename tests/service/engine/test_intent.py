"""Intent: the law of diversity and boosts, shared values, and the initial ranking under it."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import intent as module
from service.engine.collate import intent_inputs
from service.engine.constraints import SlateConstraints
from service.engine.features.candidates import CandidateList
from service.engine.intent import FLOOR, DiversityTerm, IntentError, build_intent

CLOSE = 1e-4  # nats, in float32


@st.composite
def lists(draw):
    """Draw terms, the values of 1 to 6 candidates for each, boosts, and an order of candidates."""
    size = draw(st.integers(1, 6))
    terms = draw(
        st.lists(
            st.builds(
                DiversityTerm,
                st.just("genres"),
                st.floats(0, 10).map(lambda w: round(w, 3)),
                st.floats(0.001, 0.999),
                st.sampled_from(["sum", "mean"]),
            ),
            max_size=3,
        )
    )
    words = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)
    values_of = [[draw(words) for _ in range(size)] for _ in terms]
    boosts = np.array(draw(st.lists(st.floats(-10, 10), min_size=size, max_size=size)), np.float32)
    return terms, values_of, boosts, draw(st.permutations(range(size)))


def stated_law(terms, values_of, boosts, slate):
    """Return the adjustments [K][N] by the formula, one value after the other, in float64."""
    rows = []
    for position in range(len(slate)):
        row = [float(boost) for boost in boosts]
        for term, values in zip(terms, values_of, strict=True):
            counts = Counter(v for item in slate[:position] for v in values[item])
            for i, of_item in enumerate(values):
                if of_item:
                    unit = 1 if term.law == "sum" else 1 / len(of_item)
                    share = sum(unit * (1 - term.decay) ** counts[v] for v in of_item)
                    row[i] += term.weight * math.log(share + FLOOR)
        rows.append(row)
    return rows


@given(lists())
def test_the_adjustment_of_candidates_that_may_still_be_chosen_is_the_stated_law(drawn):
    terms, values_of, boosts, slate = drawn
    intent = build_intent(terms, values_of, boosts)
    adjustment = intent.adjustment(slate)
    expected = np.array(stated_law(terms, values_of, boosts, slate))
    for position in range(len(slate)):
        open_ones = list(slate[position:])
        np.testing.assert_allclose(
            adjustment[position, open_ones], expected[position, open_ones], rtol=1e-5, atol=CLOSE
        )
    np.testing.assert_array_equal(adjustment, boosts + intent.diversity(slate)[:-1])


def test_another_decay_departs_from_the_stated_law_by_more_than_the_tolerance():
    values_of, boosts = [[["a"], ["a"], ["b"]]], np.zeros(3, np.float32)
    one, other = (DiversityTerm("g", 0.5, decay, "sum") for decay in (0.3, 0.301))
    adjustment = build_intent([one], values_of).adjustment([0, 1, 2])
    expected = stated_law([other], values_of, boosts, [0, 1, 2])
    assert abs(adjustment[1, 1] - expected[1][1]) > CLOSE


def test_a_candidate_without_values_and_a_term_of_weight_0_change_nothing():
    terms = [DiversityTerm("a", 0.0, 0.5, "sum"), DiversityTerm("b", 2.0, 0.5, "sum")]
    values_of = [[["x"], ["x"], ["x"]], [["y", "z"], ["y"], []]]
    intent = build_intent(terms, values_of)
    assert intent.weight.tolist() == [2.0]
    adjustment = intent.adjustment([1, 0])
    np.testing.assert_allclose(adjustment[0], [2 * math.log(2), 0, 0], atol=CLOSE)
    np.testing.assert_allclose(adjustment[1, [0, 2]], [2 * math.log(1.5), 0], atol=CLOSE)


def test_boosts_of_zero_are_no_boosts():
    assert build_intent([], [], np.zeros(3, np.float32)).boost is None
    intent = build_intent([], [], np.array([0, -1, 2], np.float32))
    assert intent.adjustment([2, 0]).tolist() == [[0, -1, 2], [0, -1, 2]]


def test_values_of_the_same_candidates_share_a_column_and_lone_values_have_none():
    values_of = [[["a", "b", "c"], ["a", "b"], ["d"]]]
    intent = build_intent([DiversityTerm("g", 1.0, 0.5, "sum")], values_of)
    assert intent.values.tolist() == [[2], [2], [0]]
    assert intent.alone.tolist() == [[1, 0, 1]]


def test_more_shared_values_than_the_limit_are_refused_with_term_rule_and_value(monkeypatch):
    values_of = [["ab"], ["a"], ["b"], ["c"]], [list("ab"), list("ac"), list("bc"), []]
    terms = [DiversityTerm("g", 1.0, 0.5, "sum")] * 2
    monkeypatch.setattr(module, "MAX_CELLS", 12)
    assert build_intent(terms, values_of).values.shape == (4, 3)
    monkeypatch.setattr(module, "MAX_CELLS", 11)
    rule = "at most 2 values, over all attributes, that several of 4 candidates share"
    with pytest.raises(IntentError, match=rule) as error:
        build_intent(terms, values_of)
    assert (error.value.term, error.value.value) == (1, 3)


def test_many_sampled_slates_lower_the_limit_of_shared_values(monkeypatch):
    values_of = [["ab"], ["a"], ["b"], ["c"]], [list("ab"), list("ac"), list("bc"), []]
    terms = [DiversityTerm("g", 1.0, 0.5, "sum")] * 2
    monkeypatch.setattr(module, "MAX_SLATE_CELLS", 36)
    for slates in (1, 2, 3):
        assert build_intent(terms, values_of, slates=slates).values.shape == (4, 3)
    rule = "at most 2 values, .* that several of 4 candidates share, for 4 sampled slates"
    with pytest.raises(IntentError, match=rule):
        build_intent(terms, values_of, slates=4)


def test_an_attribute_of_many_values_widens_no_other_attribute_of_a_run():
    many, few = [[*range(9)]] + [[value] for value in range(9)], [["a"], ["b"]] * 5
    terms = [DiversityTerm(name, 1.0, 0.5, "sum") for name in "abcd"]
    intent = build_intent(terms, [many, few, few, few])
    assert intent.values.shape == (10, 9 + 3 * 2)
    feeds = {"mask": np.ones((1, 10)), "list": np.zeros(1, np.int64)}
    inputs = intent_inputs([intent], feeds)
    assert inputs["values"].shape == (1, 10, 1 + 15 + len(terms))
    np.testing.assert_array_equal(inputs["member"].sum(axis=2), [[1 + 9 + 1, 4, 4, 4]])
    np.testing.assert_array_equal(inputs["member"][:, :, 1:].sum(axis=1), np.ones((1, 19)))


def test_the_initial_ranking_follows_the_intent_and_keeps_the_constraints():
    size = 5
    constraints = SlateConstraints.none(size, 3)
    values_of = [[["a"], ["a"], ["a"], ["b"], ["c"]]]
    intent = build_intent([DiversityTerm("g", 5.0, 0.9, "sum")], values_of)
    assert constraints.initial_ranking(3, intent) == [0, 3, 4]
    pinned = SlateConstraints(np.array([3, -1, -1]), constraints.group, constraints.quota)
    assert pinned.initial_ranking(3, intent) == [3, 0, 4]
    boosted = build_intent([], [], np.array([0, 0, 0, 10, -10], np.float32))
    assert constraints.initial_ranking(3, boosted)[0] == 3
    nothing = build_intent([], [], np.zeros(size, np.float32))
    assert constraints.initial_ranking(3, nothing) == constraints.initial_ranking(3)


def test_a_session_reads_every_value_of_categories_and_refuses_other_features(session, items):
    candidates = CandidateList(
        ids=[*items[:20], "nobody"],
        features=[{"genres": ["drama", "no genre", "drama"]}] + [{}] * 20,
    )
    row = session.row(candidates)
    genres = session.values("genres", row)
    assert genres[0] == ("drama",)
    assert genres[-1] == ()
    assert max(len(values) for values in genres) > 1
    directors = session.values("director", row)
    assert [values[0] if values else None for values in directors] == session.groups(
        "director", row
    )
    for name in ("year", "nothing"):
        with pytest.raises(KeyError):
            session.values(name, row)
