"""Rows, gains, bars and page of the report of the loop."""

import json
from typing import Any

import pytest

from loadtest.cli import parse, run_command
from loadtest.errors import MISSED, PASSED, UNUSABLE, UsageError
from loadtest.loop import report, run
from loadtest.loop.bars import bars_of
from loadtest.loop.command import ARMS, Loop
from loadtest.loop.plan import ARMS as PLANNED
from loadtest.loop.plan import CONFIG, SMOKE_ARMS, Base, Scale, scale_of, training_config
from model.network.config import Config

LEVELS = {"best": 2.0, "frozen": 1.0, "state": 1.2, "loop": 1.5, "loop plain": 1.4}
JOINED = {
    "lists": 90, "impressions": 360, "events: joined": 200, "events: late": 6,
    "events: orphaned": 4, "events: duplicate": 9,
}  # fmt: skip
JOURNAL = {
    "lists answered": 96, "lists answered just before a kill": 8, "lists that the journal lacks": 2,
    "lists lacking unexplained": 0, "events acknowledged": 210, "events lacking unexplained": 0,
    "event records": 219,
}  # fmt: skip
IN_FLIGHT = {"/rerank/batch": 1, "/feedback": 1}
PARTS = ("store", "service", "worker", "retraining")
KILLS = [
    *({"part": part, "day": day, "down_s": 0.1, "in_flight": IN_FLIGHT}
      for day, part in enumerate(PARTS[:3])),
    {"part": "retraining", "day": 2, "stage": "train"},
]  # fmt: skip
STORE = [{"due": 100, "lost": 0, "too many": 0}] * 4
JOBS = [
    {"day": 2, "job": "retraining", "outcome": "canary", "failed": []},
    {"day": 3, "job": "experiment", "outcome": "promote"},
    {"day": 3, "job": "retraining", "outcome": "rejected", "failed": ["validation"]},
]


def outcome_of(arm, seed, days=4):
    """Return the figures of one arm as a worker returns them."""
    level = LEVELS[arm] + 0.01 * seed * (arm == "loop")
    outcome: dict[str, Any] = {
        "days": [
            {"day": d, "expected_clicks": level + 0.1 * d, "steps": 2.0 + d} for d in range(days)
        ]
    }
    if arm == "best":
        outcome["days"] = [{k: v for k, v in d.items() if k != "steps"} for d in outcome["days"]]
    if arm.startswith("loop"):
        outcome |= {
            "calls": {"lists": 96, "events accepted": 210, "events repeated": 9},
            "feedback": {"events in time": 180, "events late": 15, "events overdue": 6,
                         "events doubled": 9, "events lost": 12},
            "joined": JOINED, "jobs": JOBS, "kills": KILLS, "store": STORE, "journal": JOURNAL,
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


def test_rows_have_the_mean_reasoning_steps_of_each_day_and_the_best_slates_have_none():
    rows = {(row["arm"], row["day"]): row["steps"] for row in report.rows_of(results_of(2))}
    assert (rows["loop", 0], rows["loop plain", 3], rows["best", 0]) == (2.0, 5.0, None)


def test_one_seed_has_no_interval():
    assert all(row["low"] is row["high"] is None for row in report.rows_of(results_of(1)))


def test_the_share_of_the_gap_is_that_of_best_over_frozen_and_over_state():
    summary = {row["what"]: row for row in report.summary_of(results_of(5))}
    assert summary["share of the gap from frozen to best closed by loop, all days"]["value"] == (
        pytest.approx(0.52)
    )
    assert summary["share of the gap from state to best closed by loop, all days"]["value"] == (
        pytest.approx(0.4)
    )
    assert summary["loop - frozen, last half of the days"]["value"] == pytest.approx(0.52)
    assert summary["loop - loop plain, all days"]["value"] == pytest.approx(0.12)


def missed(results, smoke=False):
    """Return the figures of the missed bars by rule."""
    bars = bars_of(results, report.summary_of(results), smoke, PARTS)
    return {bar["rule"]: bar["figure"] for bar in bars if not bar["kept"]}


CHANGES = {
    "the join counts every event of the journal once": {
        "joined": {**JOINED, "events: joined": 199}
    },
    "every event that was sent is acknowledged": {"feedback": {"events in time": 209}},
    "the store has every acknowledged answer": {"store": [{"due": 9, "lost": 1, "too many": 0}]},
    "the journal has every list": {"journal": {**JOURNAL, "lists lacking unexplained": 1}},
    "the journal has every event": {"journal": {**JOURNAL, "events lacking unexplained": 1}},
    "a candidate passes its gates": {"jobs": JOBS[1:]},
    "a canary is promoted": {"jobs": JOBS[:1]},
    "store, service, worker, retraining are each killed": {"kills": KILLS[:3]},
    "lists and events are in flight": {
        "kills": [{**KILLS[0], "in_flight": {"/feedback": 1}}, *KILLS[1:]]
    },
}


@pytest.mark.parametrize("rule", CHANGES)
def test_one_loop_alone_misses_a_bar_whatever_the_others_do(rule):
    assert missed(results_of(5)) == {}
    results = results_of(5)
    # The opposite fault, or more than enough, in another loop does not make up for it.
    results["loop plain"][1] |= {
        "joined": {**JOINED, "events: joined": 200}, "jobs": [*JOBS, *JOBS], "kills": KILLS * 2,
    }  # fmt: skip
    results["loop"][0] |= CHANGES[rule]
    (name,) = missed(results)
    assert name.startswith(rule)


def test_differences_of_two_loops_do_not_cancel_out():
    results = results_of(5)
    for seed, count in enumerate((199, 201)):
        results["loop"][seed]["joined"] = {**JOINED, "events: joined": count}
    assert missed(results) == {"the join counts every event of the journal once": "2 exceptions"}


def test_a_loop_below_the_frozen_model_misses_both_bars_of_gain():
    results = results_of(5)
    for outcome in results["loop"]:
        outcome["days"] = [{"day": d, "expected_clicks": 0.5} for d in range(4)]
    assert list(missed(results)) == [
        "the loop is above the frozen model", "the loop is above the store",
    ]  # fmt: skip
    assert missed(results, smoke=True) == {}  # a miniature proves no gain


def test_a_loop_that_gains_no_more_than_its_store_misses_the_bar_of_the_store_alone():
    results = results_of(5)
    results["loop"] = [{**o, "days": s["days"]}
                       for o, s in zip(results["loop"], results["state"], strict=True)]  # fmt: skip
    assert list(missed(results)) == ["the loop is above the store"]


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
    assert payload["rows"][0].keys() == {"arm", "day", "expected_clicks", "low", "high", "steps"}
    page = (tmp_path / "loop.md").read_text()
    assert "This run is a miniature" in page
    assert "| loop | retraining | rejected by validation | 1 |" in page
    assert "| kills of retraining in train | 1 |" in page
    assert "| `--slowdown` of the gate of latency | 3 |" in page
    assert "| loop | 3 | 1.800 | 5.00 |" in page
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
