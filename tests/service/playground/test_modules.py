"""Modules of the page that need no browser, run by Node: requests, links, copies and calls."""

import json
import shlex
import subprocess
import sys

import pytest

from service.http.playground import DIRECTORY
from tests.support.playground import NODE

HOSTILE = ["<b>x</b>", "\u05d0\u05d1 \u202e\u0645", "\U0001f600", 'it\'s `$HOME` \\ "q"', "x" * 256]


def request_of(*ids, **more):
    return {"candidates": [{"id": i} for i in ids], **more}


def test_candidates_of_each_form_become_the_same_records(evaluate):
    columns = {
        "id": ["a", 2], "score": [0.5, None], "boost": [None, 1],
        "features": {"vote": [7.5, None]}, "topics": {"mood": [["calm"], None]},
    }  # fmt: skip
    expected = [
        {"id": "a", "score": 0.5, "features": {"vote": 7.5}, "topics": {"mood": ["calm"]}},
        {"id": 2, "boost": 1},
    ]
    assert evaluate("r.recordsOf(data)", columns) == expected
    assert evaluate("r.recordsOf(data)", expected) == expected
    assert evaluate("r.recordsOf(data)", ["a", 2]) == [{"id": "a"}, {"id": 2}]


def test_a_rule_is_about_an_item_however_its_id_is_written(evaluate):
    request = request_of("7", "8", constraints={"pinned": {" 7": 1}, "blocked": [8]})
    assert evaluate("[r.pinOf(data, 7), r.isBlocked(data, '8')]", request) == [1, True]
    moved = evaluate("r.withBlocked(r.withPin(data, 7, 0), '8', false)", request)
    assert moved["constraints"] == {"pinned": {"7": 0}}
    assert "constraints" not in evaluate("r.withPin(data, 7, undefined)", moved)
    assert evaluate("r.withoutCandidate(data, 0)", request) == request_of(
        "8", constraints={"blocked": [8]}
    )


def test_a_change_leaves_every_other_field_and_the_request_before(evaluate):
    request = request_of("1", context={"hour": 3}, reasoning={"budget": 1, "entropy_threshold": 2})
    changed = "r.withValue(data, ['reasoning', 'budget'], undefined)"
    after, before = evaluate(f"[{changed}, data]", request)
    assert after == {**request, "reasoning": {"entropy_threshold": 2}}
    assert before == request


@pytest.mark.parametrize("text", HOSTILE)
def test_a_link_holds_any_request_and_a_damaged_one_holds_none(evaluate, text):
    request = request_of(text, user={"id": text})
    back, fragment = evaluate("[r.requestIn(r.fragmentOf(data)), r.fragmentOf(data)]", request)
    assert back == request
    assert fragment.isascii()
    assert evaluate("r.requestIn(data)", fragment[:-3]) is None
    assert evaluate("r.requestIn(data)", "#slate") is None


def test_requests_are_the_same_in_any_order_of_their_fields(evaluate):
    one = {"user": {"id": "ann", "toString": {}}, "context": {"b": 1}, "candidates": ["1", "2"]}
    other = {"candidates": ["1", "2"], "context": {"b": 1}, "user": {"toString": {}, "id": "ann"}}
    assert evaluate("r.sameRequest(...data)", [one, other])
    assert not evaluate("r.sameRequest(...data)", [one, {**other, "candidates": ["2", "1"]}])


@pytest.mark.parametrize("fragment", ["", "#slate", "#request"])
def test_an_address_without_a_request_has_no_problem(evaluate, fragment):
    assert evaluate("[r.isLink(data), r.linkProblem(data)]", fragment) == [False, None]


@pytest.mark.parametrize(
    ("fragment", "words"),
    [
        ("#request=", "is damaged"),
        ("#request=eyJjYW5kaWRhdGVzIjpb", "is damaged"),  # {"candidates":[
        ("#request=eyJjYW5kaWRhdGVzIjpbIjEiXX0.", "is damaged"),  # a full stop behind it
        ("#request%3DeyJjYW5kaWRhdGVzIjpbIjEiXX0", "is damaged"),
        ("#request=e30", "not valid: candidates: at least one"),  # {}
    ],
)
def test_a_damaged_link_is_named(evaluate, fragment, words):
    assert words in evaluate("r.linkProblem(data)", fragment)
    assert evaluate("r.isLink(data)", fragment)


@pytest.mark.parametrize("text", HOSTILE)
def test_each_copy_sends_the_request_as_it_is(evaluate, tmp_path, text):
    """Run the programs with stand-ins for the client and fetch, which print the body."""
    request = request_of(text, "2", user={"id": text}, explain=True, timeout_ms=None)
    curl, python, node = evaluate(
        "['curl', 'python', 'node'].map((name) => r.SNIPPETS[name](data, 'http://h:1', false))",
        request,
    )
    arguments = shlex.split(curl)
    assert arguments[:3] == ["curl", "-s", "http://h:1/rerank"]
    assert json.loads(arguments[arguments.index("-d") + 1]) == request
    (tmp_path / "rerank_client.py").write_text(
        "import json, types\n"
        "class Client:\n"
        "    def __init__(self, url): assert url == 'http://h:1'\n"
        "    def rerank(self, **request):\n"
        "        print(json.dumps(request))\n"
        "        return types.SimpleNamespace(ids=[], degraded=None)\n"
    )
    (tmp_path / "copied.py").write_text(python, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "copied.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[0]) == request
    fetch = (
        "globalThis.fetch = async (url, { body }) =>"
        " { console.log(url, body); return { json: () => ({}) }; };"
    )
    (tmp_path / "copied.mjs").write_text(f"{fetch}\n{node}", encoding="utf-8")
    done = subprocess.run(
        [NODE, "copied.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    url, body = done.stdout.splitlines()[0].split(" ", 1)
    assert (url, json.loads(body)) == ("http://h:1/rerank", request)


def test_a_copy_for_a_service_with_keys_names_a_variable_and_no_key(evaluate):
    names = "['curl', 'python', 'node']"
    copies = evaluate(
        f"{names}.map((name) => r.SNIPPETS[name](data, 'http://h', true))", request_of("1")
    )
    assert all("RERANK_KEY" in text for text in copies)
    open_copies = evaluate(
        f"{names}.map((n) => r.SNIPPETS[n](data, 'http://h', false))", request_of("1")
    )
    assert not any("RERANK_KEY" in text for text in open_copies)


INFO = {
    "model": {"name": "m"}, "temperatures": {"reason": 1.0, "recommend": 0.5},
    "max_lists_per_call": 8, "features": [{"name": "age", "of": "user", "required": False}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("required", "model", "user"),
    [
        (True, None, {"id": "ann", "features": {"age": 3}}),
        (False, None, None),
        (False, "m", None),
        (False, "other", {"id": "ann", "features": {"age": 3}}),
    ],
)
def test_probes_keep_to_the_limits_and_the_required_features_of_the_service(
    evaluate, required, model, user
):
    ann = {"id": "ann", "history": ["x"], "features": {"age": 3}}
    features = [{"name": "age", "of": "user", "required": required}]
    info = {**INFO, "max_lists_per_call": 2, "features": features}
    data = [request_of("a", "new", "b", user=ann, model=model), {"unknown_candidates": 1}, info]
    unknown, sent = evaluate(
        "s.unknownIds(...data).then((ids) => [[...ids], sent])",
        data,
        "(list) => ({ unknown_candidates: list.candidates[0].id === 'new' ? 1 : 0 })",
    )
    assert unknown == ["new"]
    assert [[probe["candidates"][0]["id"] for probe in call] for call in sent] == [
        ["a", "new"], ["b"],
    ]  # fmt: skip
    assert all(probe.get("user") == user for call in sent for probe in call)


@pytest.mark.parametrize(
    ("stated", "temperatures"),
    [
        ({}, {"recommend": 0.5}),
        ({"model": "m", "temperatures": None}, {"recommend": 0.5}),
        ({"temperatures": {"reason": 2}}, {"reason": 2}),
        ({"sampling": {"slates": 4}}, None),
        ({"model": "other"}, None),  # whose temperatures are not in /info
    ],
)
def test_a_request_states_the_default_temperature_if_it_might_be_explored(
    evaluate, stated, temperatures
):
    request = request_of("1", **stated)
    assert evaluate("r.unexplored(...data)", [request, INFO]).get("temperatures") == temperatures


def test_a_search_leaves_out_degraded_lists_and_is_not_explored(evaluate):
    request = request_of("a", "b", "c", constraints={"blocked": ["a"]})
    result, sent = evaluate(
        "f.findChanged(data[0], [], data[1], () => 0).then((result) => [result, sent])",
        [request, INFO],
        "(list, call) => ({ degraded: call === 1 ? { reason: 'overload' } : null,"
        " slate: [{ id: list.reasoning ? 'a' : 'b' }] })",
    )
    assert (result["tried"], result["degraded"]) == (5, 4)
    assert result["changed"] == request_of("a", "b", "c")
    assert [len(call) for call in sent] == [8, 8]
    assert all(each["temperatures"] == {"recommend": 0.5} for call in sent for each in call)


def test_the_modules_have_at_most_400_lines_each():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in DIRECTORY.glob("*.js")}
    assert max(lengths.values()) <= 400
    assert len(lengths) > 5
