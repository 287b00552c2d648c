"""Repeated keys of a JSON body: refused where the values differ, wherever they are."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.http.duplicates import MAX_PARTS, RULE, refuse_repeated_keys
from service.http.parsing import decode
from tests.support.bodies import problem_of

REPEATED = [
    ('{"candidates": ["1"], "candidates": ["2"]}', "candidates", '["2"]'),
    ('{"candidates": [{"id": "1"}, {"id": "2", "id": "3"}]}', "candidates[1].id", '"3"'),
    ('{"candidates": ["1"], "slate_size": 1, "slate_size": 1.0}', "slate_size", "1.0"),
    ('{"candidates": ["1"], "explain": 1, "explain": true}', "explain", "true"),
    ('{"candidates": ["1"], "user": {"id": "u", "id": null}}', "user.id", "null"),
    (
        '{"candidates": [{"id": "1", "features": {"runtime": 9, "runtime": 8}}]}',
        "candidates[0].features.runtime",
        "8",
    ),
    (
        '{"candidates": ["1", "2"], "constraints": {"pinned": {"1": 0, "1": 1}}}',
        "constraints.pinned.1",
        "1",
    ),
    # Colons in strings, white space before colons and escapes hide nothing.
    ('{"candidates":["a:b"],"slate_size":2,"slate_size"\n :1}', "slate_size", "1"),
    (r'{"candidates":["a\u003ab"],"slate_size":2,"slate_size":1}', "slate_size", "1"),
    (r'{"candidates":["a\u003Ab\\"],"slate_size":2,"slate_size":1}', "slate_size", "1"),
    (r'{"candidates":["1"],"slate_size":2,"slate\u005fsize":1}', "slate_size", "1"),
    ('{"candidates": ["1"], "slate_size": ":::", "slate_size": 1}', "slate_size", "1"),
]


@pytest.mark.parametrize(("content", "field", "value"), REPEATED)
def test_a_key_with_two_values_is_refused_by_name(client, content, field, value):
    batch = f'{{"requests": [{{"candidates": ["1"]}}, {content}]}}'
    for path, body, prefix in (
        ("/rerank", content, ""),
        ("/rerank/batch", batch, "requests[1]."),
    ):
        (error,) = problem_of(client.post(path, content=body), 422)["errors"]
        assert error == {"field": f"{prefix}{field}", "rule": RULE, "value": value}


@pytest.mark.parametrize(
    "content",
    [
        '{"candidates": ["1", "2"], "slate_size": 1, "slate_size": 1}',
        '{"candidates": [{"id": "1", "id": "1"}], "user": {"id": "u"}, "user": {"id": "u"}}',
        r'{"candidates": ["a\u003ab", "a:b:c", "\":"], "slate_size" : 1}',
        '{"candidates"\n\t:\r [ "1" ] }',
        r'{"candidates": ["\\u003a"]}',
        r'{"candidates": ["\u003ca href\u003e"]}',  # as Go writes angle brackets
    ],
)
def test_a_key_with_one_value_is_accepted_however_it_is_written(client, content):
    assert client.post("/rerank", content=content).status_code == 200


def test_a_repeated_key_in_a_very_large_body_is_refused_without_its_name(client):
    content = '{"a": 1, "a": 2, "b": [' + "{}," * MAX_PARTS + "{}]}"
    (error,) = problem_of(client.post("/rerank", content=content), 422)["errors"]
    assert (error["field"], error["rule"]) == ("body", "no key twice in one object")


@pytest.mark.parametrize("form", ["records", "columns", "history"])
def test_a_wide_body_is_not_encoded_again_unless_a_string_has_a_colon(form):
    records = [{"id": str(row), "features": dict.fromkeys(NAMES, 0.5)} for row in range(50)]
    columns = {"id": list(map(str, range(50))), "features": dict.fromkeys(NAMES, [0.5] * 50)}
    body = {"user": {"id": "u"}, "candidates": columns if form == "columns" else records}
    if form == "history":  # of a batch, where features lie deepest
        body = {"requests": [{"user": {"history": records}, "candidates": ["1"]}]}
    peaks = []
    for request_id in ("r1", "shop:r1"):
        content = json.dumps({"request_id": request_id, **body}).encode()
        payload = decode(content, {})
        tracemalloc.start()
        refuse_repeated_keys(content, payload)
        peaks.append(tracemalloc.get_traced_memory()[1] / len(content))
        tracemalloc.stop()
    assert peaks[0] < 0.1
    assert peaks[1] > 0.5


NAMES = [f"number_{index}" for index in range(50)]
KEYS = st.sampled_from(["a", "b", ":", "features"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a:"\\é', max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner)),
    max_leaves=8,
)


def written(value, spaces, ascii_only):
    """Write pairs as an object, repeated keys included; all else as JSON."""
    if not isinstance(value, list):
        text = json.dumps(value, ensure_ascii=ascii_only)
        return text.replace(":", r"\u003a") if ascii_only else text
    if value and isinstance(value[0], tuple):
        pairs = (f'"{key}"{spaces}:{written(v, spaces, ascii_only)}' for key, v in value)
        return "{" + ",".join(pairs) + "}"
    return "[" + ",".join(written(entry, spaces, ascii_only) for entry in value) + "]"


def has_repeated_keys(value):
    """Compare every pair of every object, as the checked code does not."""
    if not isinstance(value, list):
        return False
    if value and isinstance(value[0], tuple):
        texts = [(key, json.dumps(decoded(v), sort_keys=True)) for key, v in value]
        if len({key for key, _ in texts}) < len(set(texts)):
            return True
        return any(has_repeated_keys(v) for _, v in {key: (key, v) for key, v in value}.values())
    return any(has_repeated_keys(entry) for entry in value)


def decoded(value):
    if value and isinstance(value, list) and isinstance(value[0], tuple):
        return {key: decoded(entry) for key, entry in value}
    return [decoded(entry) for entry in value] if isinstance(value, list) else value


@given(VALUES, st.sampled_from(["", " ", "\n\t"]), st.booleans())
def test_exactly_the_texts_with_a_key_of_two_values_are_refused(value, spaces, ascii_only):
    content = written(value, spaces, ascii_only).encode()
    try:
        payload = decode(content, {})
    except InvalidRequest:
        assert has_repeated_keys(value)
    else:
        assert not has_repeated_keys(value)
        assert payload == json.loads(content)
