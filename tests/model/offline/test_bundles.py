"""Bundles compared on a journal that the service wrote."""

import copy
import dataclasses
import html
import json
import random

import httpx
import numpy as np
import pytest

from model.__main__ import main
from model.offline.errors import OfflineError, SkewError
from model.offline.journal import read_log
from model.offline.replay import targets
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.journals import event, records_in, write_segment
from tests.support.servers import fresh

LISTS, USERS = 24, 8


@pytest.fixture(scope="module")
def loaded():
    """A bundle of this module alone, on the graph."""
    return Session.load(BUNDLE)


@pytest.fixture(scope="module")
def journal(loaded, items, tmp_path_factory):
    """A journal of explored lists, some with constraints, with feedback on their first items."""
    draw, directory = random.Random(3), tmp_path_factory.mktemp("journal")
    settings = {"journal": f"files://{directory}", "explore_share": 1.0}
    with fresh(loaded, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        for number in range(LISTS):
            ids = draw.sample(items, draw.randint(6, 12))
            body: dict = {"candidates": ids, "user": {"id": f"u{number % USERS}"}}
            if number % 4 == 0:
                body["constraints"] = {"pinned": {ids[3]: 1}, "max_per_group": {"director": 1}}
            if number % 6 == 0:
                body["slate_size"] = 4
            client.post("/rerank", json=body).raise_for_status()
        sampled = {"candidates": ids, "sampling": {"slates": 2, "seed": 1}}
        client.post("/rerank", json=sampled).raise_for_status()
    decisions = [record for record in records_in(directory) if record.policy.kind == "explore"]
    write_segment(directory, [on(decision, n) for n, decision in enumerate(decisions)])
    return directory


def on(decision, number, position=0, **more):
    """Return a like of an item of a decision's slate."""
    item = decision.ids[decision.slate[position]]
    fields = {"request": decision.request_id, "item": item, "label": 1.0, "at": decision.at + 5}
    return event(number, **{**fields, **more})


def test_the_replay_gives_the_logged_propensities_and_whole_distributions(loaded, journal):
    log = read_log(journal, loaded.digest, 1000)
    assert dict(log.counts) == {
        "decisions": LISTS, "of the policy sampled": 1, "events": LISTS,
        "decisions beyond the latest": 0,
    }  # fmt: skip
    decisions, old, new, skew = targets(log, loaded, loaded, "sampled")
    assert skew["largest_difference"] < 1e-4
    assert np.abs(old.logprob - decisions.logprob).max() < 1e-4
    assert old.logprob.min() < -1.0
    assert np.array_equal(old.choice, new.choice)
    assert decisions.reward.sum(axis=0).tolist() == [LISTS] + [0] * (decisions.slate.shape[1] - 1)
    assert len(np.unique(decisions.user)) == USERS
    greedy = targets(log, loaded, loaded, "greedy")[1]
    assert set(np.unique(greedy.choice)) == {0.0, 1.0}
    assert np.isneginf(greedy.logprob).any()


@pytest.mark.parametrize("field", ["recommend_temperature", "history"])
def test_a_perturbed_record_is_refused_as_skew(loaded, journal, field):
    log = read_log(journal, loaded.digest, 1000)
    for record in log.records:
        if field == "history":  # as a faulty store would change it
            record.history = [(record.ids[0], 1.0)] * 5
        else:
            record.policy.recommend_temperature *= 1.05
    with pytest.raises(SkewError, match="must give the logged log-probabilities"):
        targets(log, loaded, loaded, "sampled")


def test_another_temperature_is_another_policy(loaded, journal):
    log = read_log(journal, loaded.digest, 1000)
    other = copy.copy(loaded)
    warmth = 2 * loaded.manifest.recommend_temperature
    other.manifest = dataclasses.replace(loaded.manifest, recommend_temperature=warmth)
    _, old, new, _ = targets(log, loaded, other, "sampled")
    assert not np.allclose(old.choice, new.choice, atol=0.01)
    assert new.choice.max(axis=2).mean() < old.choice.max(axis=2).mean()


def test_the_command_prints_controls_and_a_verdict_and_writes_json_plot_and_page(
    journal, tmp_path, capsys
):
    arguments = ["compare", "--journal", str(journal), "--old", str(BUNDLE), "--new", str(BUNDLE)]
    assert main([*arguments, "--out", str(tmp_path), "--resamples", "200"]) == 0
    text = capsys.readouterr().out
    assert "verdict: cannot tell" in text
    assert "effective sample size must be at least 50 lists" in text
    figures = json.loads((tmp_path / "compare.json").read_text())
    assert figures["estimates"]["cascade doubly robust"]["difference"][0] == 0.0
    assert {control["policy"] for control in figures["controls"]} == {
        "old ranklens/1", "new ranklens/1",
    }  # fmt: skip
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    page = (tmp_path / "compare.html").read_text()
    assert page.count("<svg") == 1
    assert page.count("<tbody>") == 2
    assert "<h1>new ranklens/1 against old ranklens/1</h1>" in page
    assert figures["reasons"][0] in html.unescape(page)


def test_events_that_no_decision_explains_are_counted_and_earn_nothing(loaded, journal, tmp_path):
    decisions = [each for each in records_in(journal) if each.kind == "decision"]
    first, second, third = [each for each in decisions if each.policy.kind == "explore"][:3]
    second.request_id = first.request_id = "shared"
    second.ids, second.slate = first.ids, first.slate
    third.request_id = "third"
    events = [
        on(first, 1), on(third, 2, outcome="duplicate"), on(third, 2), on(third, 2),
        on(third, 3, item="elsewhere"), on(third, 4, user="another"), on(third, 5, label=None),
        on(third, 7, request=None, user=third.user), on(third, 8, label=0.5),
        on(third, 9, type="x"),
    ]  # fmt: skip
    write_segment(tmp_path, [first, second, third])
    write_segment(tmp_path, events)
    log = read_log(tmp_path, loaded.digest, 1000, types=["like"])
    assert log.counts == {
        "decisions": 3, "decisions beyond the latest": 0, "events": 2, "events: ambiguous": 1,
        "events: duplicate": 2, "events: of no such decision": 2, "events: without a label": 1,
        "events: without a request": 1,
    }  # fmt: skip
    assert log.rewards(2).tolist() == [[0, 0], [0, 0], [1, 0]]


def test_a_users_event_goes_to_the_latest_list_with_the_item_if_the_caller_says_so(
    loaded, journal, tmp_path
):
    decisions = [each for each in records_in(journal) if each.kind == "decision"]
    earlier, later, greedy = [each for each in decisions if each.policy.kind == "explore"][:3]
    for number, record in enumerate((earlier, later, greedy)):
        record.user, record.at = "u", 1000 * number
    later.ids, later.slate, greedy.ids = earlier.ids, earlier.slate, ["z", *earlier.ids[1:]]
    greedy.slate, greedy.policy.kind = [0], "greedy"
    fields = {"request": None, "user": "u"}
    write_segment(tmp_path, [
        greedy, later, earlier,
        on(earlier, 1, at=500, **fields), on(later, 2, 1, at=2500, **fields),
        on(greedy, 3, at=2500, **fields), on(later, 4, at=10**9, **fields),
    ])  # fmt: skip
    log = read_log(tmp_path, loaded.digest, 10, attribution="user")
    assert log.rewards(2).tolist() == [[1, 0], [0, 1]]
    assert log.counts["events: of no such decision"] == 2


def test_a_journal_without_explored_decisions_is_refused(tmp_path, capsys):
    with pytest.raises(OfflineError, match=r"must have explored decisions .*no decision"):
        read_log(tmp_path, "ab", 10)
    with pytest.raises(OfflineError, match="no such journal"):
        read_log(tmp_path / "missing", "ab", 10)
    arguments = ["compare", "--journal", str(tmp_path), "--old", str(BUNDLE), "--new", str(BUNDLE)]
    assert main([*arguments, "--lists", "0"]) == 2
    assert "--lists: must be at least 1, got 0" in capsys.readouterr().err
