"""Constraints: resolved where they can be met, refused before any run where they cannot."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.constraints import ConstraintError, SlateConstraints, resolve

IDS = [f"i{n}" for n in range(7)]


@st.composite
def arguments_of_resolve(draw):
    """Draw arguments for up to seven candidates; about half of them can be met."""
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


def is_met(slate, arguments):
    """Check a slate of candidate indices against the arguments of resolve, one by one."""
    ids, groups = arguments["ids"], arguments["groups"]
    count = Counter(groups[i] for i in slate if groups[i] is not None)
    return (
        not any(ids[i] in arguments["blocked"] for i in slate)
        and all(c <= arguments["limit"][1] for c in count.values())
        and all(
            position < len(slate) and ids[slate[position]] == item
            for item, position in arguments["pinned"].items()
        )
    )


def feasible(arguments, size):
    """Try all slates of a size."""
    slates = itertools.permutations(range(len(arguments["ids"])), size)
    return any(is_met(slate, arguments) for slate in slates)


@given(arguments_of_resolve())
def test_constraints_are_resolved_exactly_where_they_can_be_met(arguments):
    slate_size, longest = arguments["slate_size"], arguments["longest"]
    try:
        size, constraints = resolve(**arguments)
    except ConstraintError:
        sizes = [slate_size] if slate_size else range(1, longest + 1)
        assert not any(feasible(arguments, size) for size in sizes)
        return
    assert slate_size in (None, size)
    slate = constraints.initial_ranking(size)
    assert is_met(slate, arguments)
    assert constraints.violation(slate) is None
    if slate_size is None:
        assert not any(feasible(arguments, more) for more in range(size + 1, longest + 1))


@given(arguments_of_resolve(), st.randoms(use_true_random=False))
def test_a_slate_violates_constraints_exactly_where_it_does_not_meet_them(arguments, random):
    try:
        size, constraints = resolve(**arguments)
    except ConstraintError:
        return
    slate = random.sample(range(len(arguments["ids"])), size)
    assert (constraints.violation(slate) is None) == is_met(slate, arguments)


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"pinned": {"x": 0}}, "constraints.pinned.x", "the id of a candidate"),
        ({"pinned": {"i0": 5}}, "constraints.pinned.i0", "a position below 5"),
        ({"pinned": {"i0": 1, "i1": 1}}, "constraints.pinned.i1", "'i0' is pinned there"),
        ({"pinned": {"i0": 0}, "blocked": {"i0"}}, "constraints.pinned.i0", "not blocked"),
        (
            {"blocked": set(IDS[:3])},
            "constraints.blocked",
            "5 candidates for the free positions, 4 may",
        ),
        ({"blocked": set(IDS[:3])}, "constraints.blocked", "chosen; 3 of 7 are blocked"),
        (
            {"groups": ["a"] * 6 + ["b"], "limit": ("author", 2)},
            "constraints.max_per_group.author",
            "5 candidates for the free positions, 3 may be chosen; 4 of 7 exceed 2 per author",
        ),
        (
            {"blocked": {"i0"}, "groups": ["a"] * 6 + ["b"], "limit": ("author", 2)},
            "constraints.max_per_group.author",
            "3 may be chosen; 1 of 7 are blocked; 3 of 6 exceed 2 per author",
        ),
        (
            {
                "blocked": {"i5", "i6"},
                "groups": list("aabbccd"),
                "limit": ("author", 1),
                "slate_size": 4,
                "longest": 4,
            },
            "constraints",
            "3 may be chosen; 2 of 7 are blocked; 2 of 5 exceed 1 per author",
        ),
        (
            {"pinned": {"i0": 4}, "blocked": set(IDS[3:]), "slate_size": None},
            "constraints.blocked",
            "at least 4 candidates for the free positions, 2 may be chosen; 4 of 6 are blocked",
        ),
        (
            {"pinned": {"i0": 0, "i1": 1}, "groups": ["a"] * 7, "limit": ("author", 1)},
            "constraints.max_per_group.author",
            "at most 1 items of author 'a', more are pinned",
        ),
    ],
)
def test_a_constraint_error_names_path_and_rule(changes, path, rule):
    arguments = {"ids": IDS, "slate_size": 5, "longest": 5, "pinned": {}, "blocked": set(),
           "groups": None, "limit": None, **changes}  # fmt: skip
    with pytest.raises(ConstraintError) as error:
        resolve(**arguments)
    assert error.value.path == path
    assert rule in error.value.rule


def test_without_constraints_the_initial_ranking_is_kept():
    assert SlateConstraints.none(6, 4).initial_ranking(4) == [0, 1, 2, 3]
    np.testing.assert_array_equal(SlateConstraints.none(2, 1).quota, [1, 1])


def test_a_limit_above_the_number_of_candidates_has_no_effect():
    size, constraints = resolve(IDS, None, 5, {}, set(), ["a"] * 7, ("author", 10**40))
    assert size == 5
    assert constraints.violation([0, 1, 2, 3, 4]) is None
