"""The study of coverage, in miniature."""

import json

import numpy as np
import pytest

from model.__main__ import main
from model.offline.agreement import propensities
from model.offline.coverage import summarise
from model.offline.estimators import prefix_weights, weighted_reward
from model.offline.world import Population, draw_pair


def coverage(tmp_path, pairs):
    """Run the command and return its status."""
    places = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    return main(["coverage", "--smoke", "--pairs", str(pairs), *places])


def test_an_interrupted_study_resumes_and_reports(tmp_path, capsys):
    assert coverage(tmp_path, 1) == 0
    first = tmp_path / "cache" / "0000.json"
    before = first.stat().st_mtime_ns
    assert coverage(tmp_path, 2) == 0
    assert first.stat().st_mtime_ns == before
    payload = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [pair["seed"] for pair in payload["pairs"]] == [0, 1]
    assert payload["coverage"]["cascade doubly robust"]["of"] == 2
    assert "wrong verdicts" in (tmp_path / "out" / "compare.md").read_text()
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000
    assert "goal 90% to 99%" in capsys.readouterr().out


def test_a_cache_of_another_population_is_refused(tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "setting.json").write_text("{}")
    assert coverage(tmp_path, 1) == 2
    assert "choose another --cache" in capsys.readouterr().err


def record(truth, value, low, high, verdict):
    """Return the figures of a pair."""
    each = {"difference": [value, low, high], "deviation": (high - low) / 4}
    names = ("cascade doubly robust", "prefix self-normalised IPS", "direct method")
    return {
        "truth": truth, "verdict": verdict, "null_verdict": "cannot tell",
        "estimates": dict.fromkeys(names, each),
    }  # fmt: skip


def test_shares_count_covered_wrong_and_undecided_pairs():
    pairs = [
        record(0.5, 0.4, 0.2, 0.6, "better"),
        record(-0.5, 0.4, 0.2, 0.6, "better"),
        record(0.5, 0.4, 0.2, 0.6, "cannot tell"),
        record(0.01, 0.1, -0.1, 0.3, "cannot tell"),
    ]
    summary = summarise(pairs)
    shares = {name: (each["count"], each["of"]) for name, each in summary["shares"].items()}
    assert shares == {
        "coverage": (3, 4), "wrong": (1, 2), "decided_of_large": (2, 3), "null_undecided": (4, 4),
    }  # fmt: skip
    kept = {name: goal["kept"] for name, goal in summary["goals"].items()}
    assert kept == {
        "coverage": False, "wrong": False, "decided_of_large": True, "null_undecided": True,
    }  # fmt: skip


def test_the_propensities_for_obp_weight_as_the_comparison_does():
    population = Population.draw(6, 0)
    decisions, scores = propensities(population, 50, 0)
    _, new = draw_pair(0)
    lists = population.log(draw_pair(0)[0], 50, 0)[1]
    target = population.target("new", new, decisions, lists)
    logged, evaluated = scores["prefix IPS"]
    assert evaluated / logged == pytest.approx(prefix_weights(decisions, target).weight)
    values = {
        name: weighted_reward(each[1] / each[0], decisions).value for name, each in scores.items()
    }
    assert len({round(value, 6) for value in values.values()}) == 3
    assert all(np.isfinite(value) for value in values.values())
