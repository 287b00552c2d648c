"""The modules of the page that need no browser, run by Node: requests, calls and sentences."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from service.http.playground import DIRECTORY

NODE = shutil.which("node") or ""

pytestmark = pytest.mark.skipif(not NODE, reason="no Node, which runs the modules")

HOSTILE = ["<b>x</b>", "\u05d0\u05d1 \u202e\u0645", "\U0001f600", 'it\'s `$HOME` \\ "q"', "x" * 256]


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """A copy of the modules that Node takes for such, whatever its version."""
    directory = tmp_path_factory.mktemp("modules")
    for name in ("requests.js", "measures.js", "service.js", "search.js"):
        shutil.copy(DIRECTORY / name, directory / name)
    (directory / "package.json").write_text('{"type": "module"}')
    return directory


@pytest.fixture(scope="module")
def evaluate(modules):
    """Return the JSON of an expression over the modules.

    `data` is the value of the test, and `respond` the code of a function that maps a list and the
    number of its call, from 1, to its response; `sent` then has the lists of each call.
    """

    def run(expression, data=None, respond="() => null"):
        program = (
            'import * as r from "./requests.js"; import * as m from "./measures.js";'
            'import * as s from "./service.js"; import * as f from "./search.js";'
            "globalThis.sessionStorage = { getItem: () => null }; const sent = [];"
            "globalThis.fetch = async (url, { body }) => {"
            "  const { requests } = JSON.parse(body); sent.push(requests);"
            f"  const responses = requests.map((list) => ({respond})(list, sent.length));"
            "  return { ok: true, text: async () => JSON.stringify({ responses }) }; };"
            f"const data = {json.dumps(data)};"
            f"console.log(JSON.stringify(await ({expression})) ?? null);"
        )
        done = subprocess.run(
            [NODE, "--input-type=module", "--eval", program],
            cwd=modules, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def request_of(*ids, **more):
    return {"candidates": [{"id": i} for i in ids], **more}


def response_of(ids, steps=0, budget=3):
    slate = [{"id": i, "position": place} for place, i in enumerate(ids)]
    return {"slate": slate, "reasoning": {"steps_used": steps, "budget_per_position": budget}}


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


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ("abcd", "abcd", 1),
        ("abcd", "dcba", -1),
        ("abcd", "bacd", 2 / 3),
        ("abcd", "bxay", -1),  # over the items that both have
        ("abcd", "wxyz", None),
    ],
)
def test_kendalls_tau_counts_the_pairs_in_the_same_order(evaluate, first, second, tau):
    data = [response_of(first), response_of(second)]
    assert evaluate("m.kendallTau(...data).tau", data) == pytest.approx(tau, abs=1e-12)


def test_a_comparison_says_in_words_that_reasoning_changed_nothing(evaluate):
    same = [response_of("abc", 0), response_of("abc", 6)]
    assert evaluate("m.comparison(...data)", same).startswith("Reasoning changed nothing: A took 0")
    assert evaluate("m.comparison(...data)", [same[0], same[0]]) == "Both slates are the same."
    other = evaluate("m.comparison(...data)", [same[0], response_of("acb", 6)])
    assert other.startswith("2 of 3 positions differ (2, 3); Kendall's tau is 0.33")


def state_of(entropy, choice):
    choices = [{"id": "z", "probability": 0.5, "logprob": -0.69, "weight": 0.5}]
    return {"entropy": entropy, "choice": choice, "changed": False, "choices": choices}


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (["a", "b"], "Took 1 of 3 steps; the choice changed from <a> to <b>."),
        (["a", "a", "a"], "Took 2 of 3 steps; nothing changed."),
        (["a", "b", "a"], "Took 2 of 3 steps; nothing changed; <b> led in between."),
    ],
)
def test_a_position_says_what_its_steps_changed(evaluate, states, sentence):
    steps = [state_of(3.0 - step / 10, choice) for step, choice in enumerate(states)]
    entry = {
        "entropy": 3.0, "entropy_after": 2.9, "reasoning_steps": len(states) - 1,
        "explanation": {"steps": steps},
    }  # fmt: skip
    reasoning = {"budget_per_position": 3, "entropy_threshold": 2.0}
    data = [entry, reasoning]
    assert evaluate("m.thought(data[0], data[1], (id) => `<${id}>`)", data) == sentence


@pytest.mark.parametrize(
    ("entry", "budget", "words"),
    [
        ({"entropy": None}, 3, "pinned or degraded"),
        ({"entropy": 1.5, "reasoning_steps": 0}, 3, "1.50 nats, is not above 2.00 nats"),
        ({"entropy": 2.5, "reasoning_steps": 0}, 0, "the budget is 0"),
        ({"entropy": 2.5, "entropy_after": 2, "reasoning_steps": 1}, 3, "Took 1 of 3 steps."),
    ],
)
def test_a_position_without_states_of_steps_says_what_the_response_has(
    evaluate, entry, budget, words
):
    data = [entry, {"budget_per_position": budget, "entropy_threshold": 2.0}]
    assert words in evaluate("m.thought(data[0], data[1], String)", data)


def test_a_position_says_what_was_close_and_what_boosts_and_diversity_added(evaluate):
    others = [{"id": "b", "probability": 0.25}, {"id": "c", "probability": 0.1}]
    explanation = {
        "probability": 0.5, "alternatives": others,
        "boost": -1.5, "diversity": 0.25, "instead_of": "b",
    }  # fmt: skip
    entry = {"logprob": -0.7, "initial_position": 4, "position": 2, "explanation": explanation}
    assert evaluate("m.placement(data, (id) => `<${id}>`)", entry) == (
        "Chosen with probability 0.50 from what was left; closest were <b> (0.25), <c> (0.10). "
        "Its boost added \u22121.50 nats. Diversity added +0.25 nats. "
        "Without boosts and diversity it would have been <b>. The initial ranking has it at 5."
    )
    pinned = {**entry, "logprob": None, "position": 4}
    assert evaluate("m.placement(data, String)", pinned) == (
        "The initial ranking has it at the same position."
    )


def test_values_are_counted_once_and_in_the_slate_alone(evaluate):
    topics = [["x", "y"], ["y", "w"], ["z"]]
    candidates = [
        {"id": i, "topics": {"mood": mood}} for i, mood in zip("abc", topics, strict=True)
    ]
    data = [{"candidates": candidates}, response_of("ab")]
    assert evaluate("m.countValues(...data, 2, 'mood', () => undefined)", data) == 3
    assert evaluate("m.countValues(...data, 1, 'mood', () => undefined)", data) == 2


def test_badges_say_which_rule_a_candidate_meets(evaluate):
    candidates = [
        {"id": "a", "groups": {"author": "x"}}, {"id": "b", "groups": {"author": "x"}},
        {"id": "c", "boost": -1}, {"id": "d"}, {"id": "e", "groups": {"author": "y"}},
    ]  # fmt: skip
    rules = {"pinned": {"a": 0}, "blocked": ["d"], "max_per_group": {"author": 1}}
    data = [{"candidates": candidates, "constraints": rules}, response_of("ac")]
    badges = evaluate("[...m.badgesOf(...data, new Set(['e']), () => undefined)]", data)
    assert dict(badges) == {
        "a": ["pinned"], "b": ["capped"], "c": ["boosted -1"], "d": ["blocked"], "e": ["unknown"],
    }  # fmt: skip


def test_moves_name_items_that_enter_leave_or_change_their_place(evaluate):
    data = [response_of("abc"), response_of("bad")]
    assert evaluate("m.moves(...data)", data) == [
        {"id": "b", "from": 1, "to": 0}, {"id": "a", "from": 0, "to": 1},
        {"id": "d", "from": None, "to": 2}, {"id": "c", "from": 2, "to": None},
    ]  # fmt: skip


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


def run_of(ids, degraded=None):
    reasons = None if degraded is None else {"reason": degraded, "reasons": [degraded]}
    return {**response_of(ids), "degraded": reasons}


def test_a_comparison_takes_runs_that_were_not_degraded(evaluate):
    late, whole = run_of("ba", "deadline"), run_of("ab")
    data = [[late, whole, whole], [whole, late, whole]]
    assert evaluate("m.fairRun(...data)", data) == 2
    assert evaluate("m.cautions(...data)", data) == []
    assert evaluate("m.cautions(...data)", [[late, late], [whole, whole]]) == [
        "A was degraded (deadline), which may be why the slates differ or agree."
    ]


def test_a_comparison_warns_of_a_side_whose_runs_differ(evaluate):
    data = [[run_of("ab"), run_of("ab")], [run_of("ab"), run_of("ba")]]
    (caution,) = evaluate("m.cautions(...data)", data)
    assert caution.startswith("B gave 2 different slates in 2 runs: the service explores")


def test_states_of_steps_belong_to_a_slate_with_the_same_items_and_steps(evaluate):
    def response(ids, steps, version="1"):
        slate = [{"id": i, "reasoning_steps": n} for i, n in zip(ids, steps, strict=True)]
        return {"slate": slate, "model": {"name": "m", "version": version}}

    def same(*data):
        return evaluate("m.sameSteps(...data)", data)

    assert same(response([1, "b"], [3, 0]), response([" 1", "b"], [3, 0]))
    assert not same(response("ab", [3, 0]), response("ba", [3, 0]))
    assert not same(response("ab", [3, 0]), response("ab", [2, 0]))
    assert not same(response("ab", [3, 0]), response("ab", [3, 0], "2"))


def test_the_modules_have_at_most_400_lines_each():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in DIRECTORY.glob("*.js")}
    assert max(lengths.values()) <= 400
    assert len(lengths) > 5
