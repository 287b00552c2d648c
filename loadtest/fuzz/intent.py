"""Strategies for the intent of a list: diversity, topics and boosts."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from loadtest.fuzz.bundle import Bundle


def fields(bundle: Bundle) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return topics and boosts for the first candidates."""
    names = st.sampled_from(["mood", *bundle.labels])
    topics = st.dictionaries(names, st.none() | st.lists(st.sampled_from("abcd"), max_size=4))
    boost = st.none() | st.floats(-10, 10) | st.sampled_from([-10, 0, 10.0])
    one = st.fixed_dictionaries({}, optional={"topics": topics, "boost": boost})
    return st.lists(one, max_size=12)


def diversities(bundle: Bundle) -> st.SearchStrategy[Any]:
    """Return one term of diversity, or a list of terms by different attributes."""
    names = ["mood", "author", *bundle.labels]
    more = {
        "weight": st.none() | st.floats(0, 10) | st.sampled_from([0, 10]),
        "decay": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
        "law": st.sampled_from(["sum", "mean", None]),
    }
    term = st.fixed_dictionaries({"by": st.sampled_from(names)}, optional=more)
    return st.none() | term | st.lists(term, max_size=4, unique_by=lambda one: one["by"])
