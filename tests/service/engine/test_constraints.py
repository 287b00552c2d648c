"""Constraints: what can be met is met, what cannot is refused before any run."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.constraints import ConstraintError, SlateConstraints, resolve

IDS = [f"i{n}" for n in range(7)]


@st.composite
def asked(draw):
    """Arguments of resolve for up to seven candidates; about half of them can be met."""
    ids = IDS[: draw(st.integers(1, 7))]
    pins = draw(st.lists(st.sampled_from(ids), unique=True, max_size=3))
    longest = min(len(ids), 5)
    return {
        "ids": ids,
        "slate_size": draw(st.none() | st.integers(1, longest)),
        "longest": longest,
        "pinned": {item: draw(st.integers(0, 4)) for item in pins},
        "blocked": set(draw(st.lists(st.sampled_from([*ids, "absent"]), max_size=3))),
        "groups": [draw(st.sampled_from(["a", "b", None])) for _ in ids],
        "limit": ("author", draw(st.integers(0, 3))),
    }


def keeps(slate, ask):
    """Whether a slate of candidate indices is what was asked for, word by word."""
    ids, groups = ask["ids"], ask["groups"]
    count = Counter(groups[i] for i in slate if groups[i] is not None)
    return (
        not any(ids[i] in ask["blocked"] for i in slate)
        and all(c <= ask["limit"][1] for c in count.values())
        and all(
            position < len(slate) and ids[slate[position]] == item
            for item, position in ask["pinned"].items()
        )
    )


def feasible(ask, size):
    """By trying all slates."""
    return any(keeps(slate, ask) for slate in itertools.permutations(range(len(ask["ids"])), size))


@given(asked())
def test_what_is_admitted_can_be_met_and_what_is_refused_cannot(ask):
    try:
        size, constraints = resolve(**ask)
    except ConstraintError:
        sizes = [ask["slate_size"]] if ask["slate_size"] else range(1, ask["longest"] + 1)
        assert not any(feasible(ask, size) for size in sizes)
        return
    assert ask["slate_size"] in (None, size)
    slate = constraints.initial_ranking(size)
    assert keeps(slate, ask)
    assert constraints.violation(slate) is None
    if ask["slate_size"] is None:
        assert not any(feasible(ask, more) for more in range(size + 1, ask["longest"] + 1))


@given(asked(), st.randoms(use_true_random=False))
def test_a_slate_is_broken_exactly_where_it_is_not_what_was_asked_for(ask, random):
    try:
        size, constraints = resolve(**ask)
    except ConstraintError:
        return
    slate = random.sample(range(len(ask["ids"])), size)
    assert (constraints.violation(slate) is None) == keeps(slate, ask)


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"pinned": {"x": 0}}, "constraints.pinned.x", "the id of a candidate"),
        ({"pinned": {"i0": 5}}, "constraints.pinned.i0", "a position below 5"),
        ({"pinned": {"i0": 1, "i1": 1}}, "constraints.pinned.i1", "'i0' is pinned there"),
        ({"pinned": {"i0": 0}, "blocked": {"i0"}}, "constraints.pinned.i0", "not blocked"),
        ({"blocked": set(IDS[:3])}, "constraints", "5 candidates for the free positions, 4 may"),
        (
            {"pinned": {"i0": 0, "i1": 1}, "groups": ["a"] * 7, "limit": ("author", 1)},
            "constraints.max_per_group.author",
            "at most 1 items of author 'a', more are pinned",
        ),
    ],
)
def test_a_refusal_names_field_rule_and_value(changes, path, rule):
    ask = {"ids": IDS, "slate_size": 5, "longest": 5, "pinned": {}, "blocked": set(),
           "groups": None, "limit": None, **changes}  # fmt: skip
    with pytest.raises(ConstraintError) as error:
        resolve(**ask)
    assert error.value.path == path
    assert rule in error.value.rule


def test_without_constraints_the_initial_ranking_stays():
    assert SlateConstraints.none(6, 4).initial_ranking(4) == [0, 1, 2, 3]
    np.testing.assert_array_equal(SlateConstraints.none(2, 1).quota, [1, 1])


def test_a_limit_beyond_any_number_of_candidates_limits_nothing():
    size, constraints = resolve(IDS, None, 5, {}, set(), ["a"] * 7, ("author", 10**40))
    assert size == 5
    assert constraints.violation([0, 1, 2, 3, 4]) is None
