"""Strategies for request bodies: valid ones over a bundle, and mutations of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from loadtest.fuzz import intent
from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.ids import Id, canonical, integer_id, is_id, mixed_id, with_ids

MARK = "@here@"  # stands for raw JSON text in a body that json.dumps writes
# Numbers at the limits of a double's and of 64-bit integers, and text that only looks like one.
DIGITS = ("9007199254740993", "18446744073709551615", "-9223372036854775808", "-1", "01", "1.0")
NAMES = st.text(min_size=1, max_size=8).filter(is_id) | st.sampled_from(
    ["x" * 256, "0", " 0", "\x00", "é", "🎬", *DIGITS]
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ROUGH = [
    *("null", "true", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "1e-320", "-0.0"),
    *("0", "-1", "1.0", "01", "9" * 20, "9" * 400, "18446744073709551616", "9223372036854775808"),
    *("9007199254740993", "1.5", "9007199254740993.0", "[1]", '{"id": 1}', '{"id": true}'),
    *('""', '"0"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\ud800"', "'a'", '"\n"'),
    *("[]", "{}", "[[]]", '{"":{}}', '{"id": "1"}', '{"id": "1", "id": "2"}', "[1, 2,]", ""),
    *("[" * n + "]" * n for n in (60, 250, 500, 990, 1500, 100_000)),
    *('{"a":' * n + "1" + "}" * n for n in (60, 250, 500, 990, 1500)),
    *('"' + "x" * n + '"' for n in (257, 5_000, 100_000)),
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
RAW = st.sampled_from(ROUGH) | JSON.map(json.dumps)


def bodies(bundle: Bundle) -> st.SearchStrategy[Any]:
    """Return bodies of /rerank that the document allows; the service can satisfy nearly all."""
    chosen = _candidate_ids(bundle.ids)
    options = _options(bundle)
    shapes = _candidate_fields(bundle)
    positions = st.integers(0, 11)  # among the candidates
    pinned = st.dictionaries(positions, st.integers(0, 9), max_size=3)
    blocked = st.lists(positions | NAMES, max_size=4)
    attributes = st.sampled_from(["author", *bundle.categories])
    limits = st.dictionaries(attributes, st.integers(0, 4), max_size=1)
    sizes = st.none() | st.integers(1, 10)
    forms = st.sampled_from([as_records, as_records, as_ids, as_columns])
    further = intent.fields(bundle)
    diversity = intent.diversities(bundle)
    has_intent = st.sampled_from([True, False, False])
    spellings: st.SearchStrategy[Callable[[str], Id]]
    spellings = st.sampled_from([str, str, str, integer_id, mixed_id])

    @st.composite
    def body(draw: st.DrawFn) -> dict[str, Any]:
        names = draw(chosen)
        candidates: list[dict[str, Any]] = [{"id": item} for item in names]
        for candidate, more in zip(candidates, draw(shapes), strict=False):
            candidate.update(more)
        more_options: dict[str, Any] = {}
        if draw(has_intent):
            more_options["diversity"] = draw(diversity)
            for candidate, more in zip(candidates, draw(further), strict=False):
                candidate.update(more)
        if draw(st.booleans()):
            _share_group(candidates, bundle, draw(attributes), draw(positions), draw(positions))
        request = {"candidates": draw(forms)(candidates), **draw(options), **more_options}
        if draw(st.booleans()):
            size = draw(sizes)
            request["slate_size"] = size and min(size, len(names))
        if draw(st.booleans()):
            at = [names[number % len(names)] for number in range(12)]
            request["constraints"] = {
                "pinned": {at[number]: position for number, position in draw(pinned).items()},
                "blocked": [at[one] if isinstance(one, int) else one for one in draw(blocked)],
                "max_per_group": draw(limits),
            }
        return with_ids(request, draw(spellings))

    return body()


def _share_group(
    candidates: list[dict[str, Any]], bundle: Bundle, name: str, giver: int, taker: int
) -> None:
    """Give one candidate in its `groups` the value that the item table has for another one."""
    value = bundle.values.get(name, {}).get(candidates[giver % len(candidates)]["id"])
    if value is not None:
        candidate = candidates[taker % len(candidates)]
        candidate["groups"] = {**candidate.get("groups", {}), name: value}


def _candidate_ids(ids: Sequence[str]) -> st.SearchStrategy[list[str]]:
    """Return few ids, some of them of no item, or a run of the bundle's items."""
    some = st.lists(st.sampled_from(ids) | NAMES, min_size=1, max_size=12, unique_by=canonical)
    return some | _runs(ids)


def _runs(ids: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.builds(
        lambda start, size: list(ids[start : start + size]),
        st.integers(0, len(ids) - 1),
        st.integers(1, 40) | st.sampled_from([100, 500, 501]),
    )


def _candidate_fields(bundle: Bundle) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return groups and inline features for the first candidates."""
    names = st.sampled_from(["author", *bundle.categories])
    groups = st.dictionaries(names, st.sampled_from("abc"))
    inline = _inline_features(bundle, bundle.numbers, bundle.vectors)
    fields = st.fixed_dictionaries({}, optional={"groups": groups, "features": inline})
    return st.lists(fields, max_size=12)


def _inline_features(
    bundle: Bundle, numbers: Sequence[str], vectors: Mapping[str, int]
) -> st.SearchStrategy[dict[str, Any]]:
    """Return values of categories of items, and of some numbers and vectors."""
    number = st.none() | st.integers(0, 2000) | st.floats(-1000, 1000)
    # Of few features, because drawing takes long.
    numeric: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(numbers[:3], number)
    for name, width in [*vectors.items()][:1]:
        numeric[name] = st.builds(itertools.repeat, st.floats(-10, 10), st.just(width)).map(list)
    categories = bundle.categories.items()
    return st.fixed_dictionaries(
        {}, optional={**{n: st.sampled_from([*words, "?"]) for n, words in categories}, **numeric}
    )


def _options(bundle: Bundle) -> st.SearchStrategy[dict[str, Any]]:
    """Return every optional field but the size of the slate and the constraints."""
    ids, of_items = bundle.ids, bundle.of_items
    numbers = [name for name in bundle.numbers if name in of_items]
    vectors = {name: width for name, width in bundle.vectors.items() if name in of_items}
    fields = {
        "label": st.none() | st.floats(0, 1),
        "features": st.none() | _inline_features(bundle, numbers, vectors),
    }
    entry = st.sampled_from(ids) | st.fixed_dictionaries(
        {"id": st.sampled_from(ids) | NAMES}, optional=fields
    )
    history = st.lists(entry, max_size=8) | _runs(ids)
    temperature = st.none() | st.floats(0.01, 100) | st.sampled_from([0.01, 0.7, 100])
    reasoning = {
        "budget": st.none() | st.integers(0, 3),
        "entropy_threshold": st.none() | st.floats(-1, 4) | st.floats(-1e9, 1e9),
    }
    sampling = {
        "slates": st.integers(1, 4) | st.sampled_from([1, 64]),
        "seed": st.integers(0, 2**63 - 1),
    }
    return st.fixed_dictionaries(
        {},
        optional={
            "request_id": st.text(min_size=1, max_size=128),
            "user": st.fixed_dictionaries({}, optional={"id": NAMES, "history": history}),
            "reasoning": st.fixed_dictionaries({}, optional=reasoning),
            "temperatures": st.fixed_dictionaries(
                {}, optional={"reason": temperature, "recommend": temperature}
            ),
            "sampling": st.fixed_dictionaries(sampling),
            "priority": st.sampled_from(["interactive", "background"]),
            "explain": st.booleans() | st.just("steps"),
            "timeout_ms": st.sampled_from([5e-324, 0.01, 1, 5, 20, 100, 1e4, 1e300]),
        },
    )


def as_records(candidates: list[dict[str, Any]]) -> Any:
    """Return the candidates as records."""
    return candidates


def as_ids(candidates: list[dict[str, Any]]) -> Any:
    """Return the ids alone."""
    return [candidate["id"] for candidate in candidates]


def as_columns(candidates: list[dict[str, Any]]) -> Any:
    """Return a list for each field."""
    columns: dict[str, Any] = {"id": as_ids(candidates)}
    for field in ("features", "groups", "topics"):
        names = sorted({name for one in candidates for name in one.get(field, {})})
        columns[field] = {n: [one.get(field, {}).get(n) for one in candidates] for n in names}
    if any("boost" in one for one in candidates):
        columns["boost"] = [one.get("boost") for one in candidates]
    return columns


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the keys to every value of a body; of a list only to the first three entries."""
    keys = [prefix]
    steps: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        steps = enumerate(value[:3])
    for key, inner in steps:
        keys += paths(inner, (*prefix, key))
    return keys


MUTATIONS = ("value", "value", "value", "key", "twice", "cut", "bytes", "code")


@st.composite
def mutated(
    draw: st.DrawFn, body: st.SearchStrategy[Any], mutations: Sequence[str] = MUTATIONS
) -> bytes:
    """Return a valid body with one mistake, or bytes that hardly are a body at all."""
    payload = draw(body)
    mutation = draw(st.sampled_from(mutations))
    if mutation == "twice":
        _repeat_candidates(payload, draw(st.booleans()))
    if mutation in ("value", "key"):
        keys = draw(st.sampled_from(paths(payload)))
        holder: Any = {"": payload}
        last: Any = ""
        for key in keys:
            holder, last = holder[last], key
        if mutation == "value" or not isinstance(holder[last], dict):
            holder[last] = MARK
        else:
            holder[last][draw(NAMES)] = MARK
        payload = payload if keys else MARK
    text = json.dumps(payload).replace(f'"{MARK}"', draw(RAW))
    codes = st.sampled_from(["utf-16", "utf-8-sig", "utf-32"])
    content = text.encode(draw(codes) if mutation == "code" else "utf-8", "surrogatepass")
    if mutation == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if mutation == "bytes":
        at = draw(st.integers(0, len(content)))
        return draw(st.sampled_from([content[:at], b""])) + draw(st.binary()) + content[at:]
    return content


def _repeat_candidates(payload: Any, as_numbers: bool) -> None:
    """Add every candidate again, with an integer for an id if as_numbers."""
    first = payload["requests"][0] if "requests" in payload else payload
    again = with_ids(first, integer_id if as_numbers else str)["candidates"]
    once = first["candidates"]
    if isinstance(once, dict):
        again = {"id": once["id"] + again["id"]}
    first["candidates"] = again if isinstance(once, dict) else once + again
