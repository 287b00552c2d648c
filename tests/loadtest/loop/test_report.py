"""Rows, gains, bars and page of the report of the loop."""

import json
from typing import Any

import pytest

from loadtest.cli import parse, run_command
from loadtest.errors import MISSED, PASSED, UNUSABLE, UsageError
from loadtest.loop import report, run
from loadtest.loop.command import ARMS, Loop
from loadtest.loop.plan import ARMS as PLANNED
from loadtest.loop.plan import CONFIG, SMOKE_ARMS, Base, Scale, scale_of, training_config
from model.network.config import Config

LEVELS = {"best": 2.0, "frozen": 1.0, "state": 1.2, "loop": 1.5, "loop plain": 1.4}
JOINED = {
    "lists": 90, "lists: unsettled": 4, "lists: with feedback": 80,
    "lists: compared with those served": 90, "impressions": 360,
    "events: joined": 200, "events: late": 6, "events: orphaned": 4, "events: duplicate": 9,
}  # fmt: skip
JOBS = [
    {"day": 2, "job": "retraining", "outcome": "canary", "failed": []},
    {"day": 3, "job": "experiment", "outcome": "promote"},
    {"day": 3, "job": "retraining", "outcome": "rejected", "failed": ["validation"]},
]


def outcome_of(arm, seed, days=4):
    """Return the figures of one arm as a worker returns them."""
    level = LEVELS[arm] + 0.01 * seed * (arm == "loop")
    outcome: dict[str, Any] = {
        "days": [{"day": d, "expected_clicks": level + 0.1 * d} for d in range(days)]
    }
    if arm.startswith("loop"):
        outcome |= {
            "calls": {"lists": 96, "events accepted": 210, "events repeated": 9},
            "feedback": {"events in time": 180, "events late": 15, "events overdue": 6,
                         "events doubled": 9, "events lost": 12},
            "joined": JOINED, "jobs": JOBS,
        }  # fmt: skip
    return outcome


def results_of(seeds, arms=tuple(LEVELS)):
    return {arm: [outcome_of(arm, seed) for seed in range(seeds)] for arm in arms}


def test_rows_have_the_mean_of_the_seeds_with_an_interval_that_holds_it():
    rows = report.rows_of(results_of(5))
    assert len(rows) == len(LEVELS) * 4
    row = next(row for row in rows if (row["arm"], row["day"]) == ("loop", 2))
    assert row["expected_clicks"] == pytest.approx(1.72)
    # Student's t with 4 degrees of freedom: 2.776 * 0.015811 / sqrt(5).
    assert row["high"] - row["expected_clicks"] == pytest.approx(0.01963, abs=1e-4)
    assert row["high"] - row["expected_clicks"] != pytest.approx(0.01386, abs=1e-4)  # 1.96


def test_one_seed_has_no_interval():
    assert all(row["low"] is row["high"] is None for row in report.rows_of(results_of(1)))


def test_the_share_of_the_gap_is_that_of_best_over_frozen():
    summary = {row["what"]: row for row in report.summary_of(results_of(5))}
    assert summary["share of the gap closed by loop, all days"]["value"] == pytest.approx(0.52)
    assert summary["loop - frozen, last half of the days"]["value"] == pytest.approx(0.52)
    assert summary["loop - loop plain, all days"]["value"] == pytest.approx(0.12)


def test_events_that_neither_journal_nor_counts_explain_miss_a_bar():
    bars = {bar["rule"]: bar["kept"] for bar in report.bars_of(results_of(5), False)}
    assert set(bars.values()) == {True}
    results = results_of(5)
    results["loop"][0]["joined"] = {**JOINED, "events: joined": 199}
    missed = [bar["rule"] for bar in report.bars_of(results, False) if not bar["kept"]]
    assert missed == ["every acknowledged event is in the journal once"]


def test_a_loop_below_the_frozen_model_or_without_promotion_misses_a_bar():
    results = results_of(5)
    for outcome in results["loop"]:
        outcome["days"] = [{"day": d, "expected_clicks": 0.5} for d in range(4)]
        outcome["jobs"] = JOBS[:1]
    for outcome in results["loop plain"]:
        outcome["jobs"] = JOBS[:1]
    missed = [bar["rule"] for bar in report.bars_of(results, False) if not bar["kept"]]
    assert missed == ["a canary is promoted in every loop", "the loop is above the frozen model"]
    # A miniature proves no gain.
    assert all("frozen" not in bar["rule"] for bar in report.bars_of(results, True))


@pytest.fixture
def jobs(monkeypatch):
    """Names of the jobs that were run, whose figures are those of `outcome_of`."""
    names: list[tuple[int, str | None]] = []

    def run_jobs(name, jobs, processes):
        names.extend((job.seed, job.arm) for job in jobs)
        return [{} if job.arm is None else outcome_of(job.arm, job.seed) for job in jobs]

    monkeypatch.setattr(run, "run_jobs", run_jobs)
    return names


def test_a_smoke_run_writes_the_three_files_and_passes(jobs, tmp_path):
    arguments = ["--smoke", "--scratch", str(tmp_path)]
    assert run_command("loop", arguments) == PASSED
    assert [arm for _, arm in jobs] == [None, *SMOKE_ARMS]
    payload = json.loads((tmp_path / "loop.json").read_text())
    assert payload["rows"][0].keys() == {"arm", "day", "expected_clicks", "low", "high"}
    page = (tmp_path / "loop.md").read_text()
    assert "This run is a miniature" in page
    assert "| loop | retraining | rejected by validation | 1 |" in page
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_run_states_its_gain_and_misses_the_bar_with_one_seed(jobs, tmp_path, capsys):
    out = ["--scratch", str(tmp_path), "--out", str(tmp_path / "out"), "--arms", *LEVELS]
    assert run_command("loop", out) == PASSED
    assert (4, "frozen") in jobs
    assert "This run is a miniature" not in (tmp_path / "out" / "loop.md").read_text()
    assert "loop - frozen, all days: 0.5200 [" in capsys.readouterr().out
    assert run_command("loop", [*out, "--seeds", "1"]) == MISSED


def test_results_of_other_options_are_refused(jobs, tmp_path, capsys):
    arguments = ["--scratch", str(tmp_path), "--out", str(tmp_path), "--arms", "best", "loop"]
    assert run_command("loop", arguments) in (PASSED, MISSED)
    assert run_command("loop", [*arguments, "--days", "9"]) == UNUSABLE
    assert "holds results of other options" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--days", "3"], ["--seeds", "0"], ["--jobs", "-1"]])
def test_options_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError, match=arguments[0]):
        parse("loop", arguments)


def test_every_arm_of_the_command_has_a_plan():
    assert tuple(PLANNED) == ARMS
    assert set(SMOKE_ARMS) < set(ARMS)


@pytest.mark.parametrize("base", [Base(), Base("transformer"), Base(reasons=False)])
def test_the_configuration_of_a_base_is_valid_and_a_retraining_is_shorter(base):
    first, again = (
        Config.from_json(training_config(base, Scale(), 3, again)) for again in (False, True)
    )
    assert first.network.host == base.host
    assert (first.reasoning.budget > 0) == base.reasons
    assert again.grpo.epochs < first.grpo.epochs
    assert (first.seed, Config.load(CONFIG).seed) == (3, 0)


def test_the_miniature_is_smaller():
    smoke, full = scale_of(Loop(smoke=True)), scale_of(Loop())
    assert smoke.days < full.days
    assert smoke.size.users < full.size.users
