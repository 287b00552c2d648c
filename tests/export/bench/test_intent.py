"""The benchmark of intent in miniature, and the figures of the documentation."""

import json

import numpy as np
import pytest

from export.bench.intent import (
    BEFORE,
    IntentOptions,
    intents_of,
    lists_of,
    measure_intent,
    page,
    turn_of_each,
    without_intent,
)
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.runs import ROOT

GENRES = "diversity by genres"
REPORTS = ROOT / "docs" / "reports"


def test_the_report_has_every_case_and_its_page(tmp_path, capsys):
    out = tmp_path / "intent.json"
    measure_intent(IntentOptions(BUNDLE, out, candidates=12, rounds=1))
    report = json.loads(out.read_text())
    cases = {row["case"] for row in report["rows"]}
    assert len(report["rows"]) == 6 * len(cases) == 30
    assert all(row["ms_median"] > 0 for row in report["rows"])
    assert {row["ratio"] for row in report["rows"] if row["case"] == BEFORE} == {1.0}
    assert report["loads"]["the bundle"]["private_mb"] > report["loads"][BEFORE]["private_mb"]
    assert out.with_suffix(".md").read_text() == page(report)
    assert len(json.loads(capsys.readouterr().out)) == 30


def test_a_bundle_without_its_graphs_of_intent_ranks_as_with_them(session, tmp_path):
    before = Session.load(without_intent(BUNDLE, tmp_path / "ranklens" / "1"))
    assert not before.supports_intent
    rows = [session.row(candidates) for candidates in lists_of(session, 3, 20)]
    for one, other in zip(before.run(rows), session.run(rows), strict=True):
        np.testing.assert_array_equal(one.logprob, other.logprob)


def test_the_cases_have_the_attributes_and_boosts_that_their_names_say(session):
    (candidates,) = lists_of(session, 1, 50)
    intents = intents_of(session, session.row(candidates))
    assert intents["without intent"] is None
    assert [len(one.weight) for one in intents.values() if one] == [1, 3, 0]
    assert [one.boost is not None for one in intents.values() if one] == [False, False, True]


def test_a_turn_times_every_case():
    times = turn_of_each({"empty": lambda: None, "sum": lambda: sum(range(20_000))}, seed=0)
    assert times["sum"] > 5 * times["empty"]


def test_the_committed_page_is_that_of_its_report():
    report = json.loads((REPORTS / "intent.json").read_text())
    assert (REPORTS / "intent.md").read_text(encoding="utf-8") == page(report)


def test_the_figures_of_the_documentation_are_those_of_the_report():
    report = json.loads((REPORTS / "intent.json").read_text())
    ratios = {(r["case"], r["gate"]): r["ratio"] for r in report["rows"] if r["batch"] == 1}
    page_text, decision = (
        (ROOT / "docs" / name).read_text(encoding="utf-8").replace("\n", " ")
        for name in ("inference.md", "decisions/intent-graphs.md")
    )
    for case in ("without intent", "boosts", GENRES, f"{GENRES}, director and tags"):
        served, none = ratios[case, "served"], ratios[case, "no step"]
        assert f"| {case} | {served:.2f} | {none:.2f} |" in page_text
    assert f"attribute took {report['build_ms']['genres']:.2f} ms more" in page_text
    before, after = report["loads"][BEFORE], report["loads"]["the bundle"]
    seconds, memory = (after[name] - before[name] for name in ("cpu_s", "private_mb"))
    assert f"{memory:.1f} MB and {seconds:.2f} s of CPU time more" in page_text
    assert f"{memory:.1f} MB and {seconds:.2f} s of CPU time for each process" in decision
    assert f"takes {ratios['without intent', 'served']:.2f} of the time" in decision
    one, none = ratios[GENRES, "served"], ratios[GENRES, "no step"]
    assert f"{one:.2f} times as long at the served gate and {none:.2f} times where no" in decision


@pytest.mark.parametrize(
    ("case", "limit"), [("without intent", 1.02), ("diversity by genres", 1.1)]
)
def test_the_report_keeps_the_limits_for_every_gate_and_batch(case, limit):
    report = json.loads((REPORTS / "intent.json").read_text())
    ratios = [row["ratio"] for row in report["rows"] if row["case"] == case]
    assert len(ratios) == 6
    assert max(ratios) <= limit
