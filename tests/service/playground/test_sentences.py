"""Figures and sentences of the page about responses, computed by Node."""

import pytest


def response_of(ids, steps=0, budget=3):
    slate = [{"id": i, "position": place} for place, i in enumerate(ids)]
    return {"slate": slate, "reasoning": {"steps_used": steps, "budget_per_position": budget}}


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
    assert other == (
        "2 of 3 positions differ (2, 3): the same items in another order; 67 % of their pairs keep "
        "their order (Kendall's tau 0.33)."
    )


def test_a_comparison_tells_another_order_from_other_items(evaluate):
    first = response_of("abc")
    assert "the same items in another order" in evaluate(
        "m.comparison(...data)", [first, response_of("acb")]
    )
    assert "2 items are in both slates" in evaluate(
        "m.comparison(...data)", [first, response_of("bad")]
    )
    assert evaluate("m.comparison(...data)", [first, response_of("xyz")]) == (
        "All 3 positions differ: 0 items are in both slates."
    )


@pytest.mark.parametrize(
    ("values", "digits"),
    [([0.5, 0.25], 2), ([0.5], 2), ([0.5, 0.5], 2), ([0.1234, 0.1231], 4), ([0.1, 0.1 + 1e-9], 6)],
)
def test_probabilities_have_the_digits_that_tell_the_first_from_the_next(evaluate, values, digits):
    assert evaluate("m.digitsApart(data, 2)", values) == digits


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


STATISTIC = {"name": "like_rate", "kind": "statistic", "of": "item"}
STATED = {"user": {"id": "ann", "history": ["2"]}, "candidates": ["1"]}
STORED = {"user": {"id": "ann"}, "candidates": ["1"]}


@pytest.mark.parametrize(
    ("request_", "features", "words"),
    [
        (STATED, [STATISTIC], ["the stored one is not read", "counters", "slates may move"]),
        (STATED, [], ["the stored one is not read", "events do not move its slates"]),
        (STORED, [STATISTIC], ["the stored history of the user, and the counters"]),
        (STORED, [], ["Events move the stored history of the user."]),
    ],
)
def test_the_loop_says_what_events_move(evaluate, request_, features, words):
    text = evaluate("w.reach(...data)", [request_, {"features": features}])
    assert [each for each in words if each not in text] == []


def reason(evaluate, request, counters=(), history=0, **more):
    state = {"history": history, "items": {"counters": list(counters)}}
    ranking = {"request": request, "after": {"state": state}, "events": 0, "moved": False}
    return evaluate("w.reason(data)", {**ranking, "forgot": False, "edited": False, **more})


def test_a_move_under_a_stated_history_comes_from_the_counters_of_items(evaluate):
    moved = reason(evaluate, STATED, ["like_rate"], events=1, moved=True)
    assert "the stored one was not read" in moved
    assert "the move comes from counters of items (like_rate)" in moved
    still = reason(evaluate, STATED, ["like_rate"], events=1)
    assert "Counters of items (like_rate) were read too, but changed no place" in still
    assert "No counters of items were read" in reason(evaluate, STATED, events=1)


def test_a_move_under_the_stored_history_names_both_sources(evaluate):
    words = reason(evaluate, STORED, ["like_rate"], history=1, events=1, moved=True)
    assert words.startswith("The stored history was read: 1 entry. Counters of items (like_rate)")


def test_a_deletion_leaves_the_counters_and_says_so(evaluate):
    assert "A deletion leaves the counters" in reason(evaluate, STATED, ["like_rate"], forgot=True)
    words = evaluate("data.map((request) => w.forgotten('ann', request))", [STATED, STORED])
    stated, stored = words
    assert "counters of items keep the events" in stated
    assert "does not move its slate" in stated
    assert "Rank again" in stored
    assert "Rank again" not in stated


def test_a_ranking_after_no_event_or_an_edit_says_so(evaluate):
    assert reason(evaluate, STORED) == "This page sent no event in between."
    assert "edited" in reason(evaluate, STORED, events=1, edited=True)


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
