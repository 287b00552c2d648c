"""The fallback of the client equals the initial ranking of the service."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_client.fallback import initial_ranking
from rerank_client.requests import build_list_body
from service.engine.constraints import ConstraintError, resolve

IDS = [f"i{n}" for n in range(7)]


def ids(candidates, **options):
    return [entry.id for entry in initial_ranking(build_list_body(candidates, **options))]


@st.composite
def list_requests(draw):
    ids = IDS[: draw(st.integers(1, 7))]
    groups = [draw(st.sampled_from(["a", "b", None])) for _ in ids]
    pins = draw(st.lists(st.sampled_from(ids), unique=True, max_size=3))
    return {
        "candidates": [
            {"id": i} if g is None else {"id": i, "groups": {"by": g}}
            for i, g in zip(ids, groups, strict=True)
        ],
        "slate_size": draw(st.integers(1, len(ids))),
        "constraints": {
            "pinned": {item: draw(st.integers(0, 4)) for item in pins},
            "blocked": draw(st.lists(st.sampled_from([*ids, "absent"]), max_size=3)),
            "max_per_group": {"by": draw(st.integers(0, 3))},
        },
    }


@given(list_requests())
def test_a_valid_request_gets_the_initial_ranking_of_the_service(request):
    candidates, rules = request["candidates"], request["constraints"]
    try:
        size, resolved = resolve(
            [c["id"] for c in candidates],
            request["slate_size"],
            len(candidates),
            rules["pinned"],
            set(rules["blocked"]),
            [c.get("groups", {}).get("by") for c in candidates],
            ("by", rules["max_per_group"]["by"]),
        )
    except ConstraintError:
        initial_ranking(build_list_body(**request))  # an invalid request raises nothing either
        return
    slate = initial_ranking(build_list_body(**request))
    assert [entry.initial_position for entry in slate] == resolved.initial_ranking(size)
    assert [entry.position for entry in slate] == list(range(size))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["i0", "i1", "i2", "i3"]),
        ({"slate_size": 2}, ["i0", "i1"]),
        ({"constraints": {"blocked": ["i0"]}}, ["i1", "i2", "i3"]),
        ({"constraints": {"pinned": {"i3": 0}}}, ["i3", "i0", "i1", "i2"]),
        ({"constraints": {"pinned": {"i3": 0}, "blocked": ["i3"]}}, ["i0", "i1", "i2"]),
        ({"constraints": {"pinned": {"absent": 0}}}, ["i0", "i1", "i2", "i3"]),
        ({"slate_size": 3, "constraints": {"blocked": ["i0", "i1"]}}, ["i2", "i3"]),
    ],
)
def test_each_option_changes_the_ranking(options, expected):
    assert ids(IDS[:4], **options) == expected


def test_without_a_size_the_slate_has_ten_positions_or_as_many_as_the_last_pinned_id_needs():
    many = [f"c{n}" for n in range(20)]
    assert ids(many) == many[:10]
    pinned = {"constraints": {"pinned": {"c19": 11}}}
    assert ids(many, **pinned) == [*many[:11], "c19"]
    assert ids(many, slate_size=12) == many[:12]


def test_a_repeated_id_is_ranked_once_at_its_first_place():
    assert ids(["a", "b", "a"]) == ["a", "b"]


def test_a_pinned_candidate_counts_toward_the_limit_of_its_group():
    both = [{"id": "a", "groups": {"by": "x"}}, {"id": "b", "groups": {"by": "x"}}, "c"]
    rules = {"pinned": {"b": 1}, "max_per_group": {"by": 1}}
    assert ids(both, slate_size=2, constraints=rules) == ["c", "b"]
    assert ids(both, slate_size=2, constraints=rules | {"max_per_group": {"by": 2}}) == ["a", "b"]


def test_only_groups_in_the_request_are_limited():
    capped = {"constraints": {"max_per_group": {"by": 1}}}
    assert ids([{"id": "a", "groups": {"by": "x"}}, {"id": "b", "groups": {"by": "x"}}, "c"],
               **capped) == ["a", "c"]  # fmt: skip
    assert ids(["a", "b", "c"], **capped) == ["a", "b", "c"]
