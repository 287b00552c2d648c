"""A run on a journal: the lists of the champion train its successor, which users then prove."""

import dataclasses
import json
import shutil

import polars as pl
import pytest
import yaml

from model.__main__ import main
from model.data.join.options import read_until
from model.retraining.errors import RetrainError
from model.retraining.gates import Limits, judge_candidate
from model.retraining.record import RunRecord
from model.retraining.run import STAGES, retrain
from model.retraining.stages import latest_parts
from service.engine.session import Session
from service.journal.erasure import erase
from service.journal.records import ErasureRecord
from service.models.store import ServingConfig, in_canary
from tests.support.drift import traffic
from tests.support.experiments import BEGIN, HOUR_MS
from tests.support.journals import write_segment
from tests.support.retraining import IN_PROCESS, linked, options_of, reject, serving

LISTS, USERS = 600, 50
MINUTE_MS = HOUR_MS // 60
END = "2023-11-22T00:00:00Z"  # more than a day after the last list
SHARE = 0.5


def write_journal(root, lists):
    """Write lists of the champion, one in ten minutes, and their likes; return the records."""
    requests = [(f"u{n % USERS}", BEGIN + 10 * MINUTE_MS * n, "1") for n in range(lists)]
    sessions = {"1": Session.load(root / "models" / "sale" / "1")}
    records = traffic(sessions, requests, seed=4)
    write_segment(root / "journal", records)
    return records


@pytest.fixture(scope="module")
def learned(champion, tmp_path_factory):
    """A directory after a run on a journal whose users have changed, and that journal's records."""
    root = linked(champion, tmp_path_factory.mktemp("learned") / "root")
    records = write_journal(root, LISTS)
    options = options_of(
        root, journal=root / "journal", log=(), until=END, epochs=4, margin=0.05,
        promote=f"canary:{SHARE}", keep_data=True,
    )  # fmt: skip
    assert retrain(options, IN_PROCESS) == 0
    return root, records


def test_a_journal_is_joined_compared_with_what_was_served_and_learned_from(learned):
    root, records = learned
    record = RunRecord.read(root / "work" / "2")
    counts = record.stages["join"]["counts"]
    assert counts["lists"] == counts["lists: compared with those served"] == LISTS
    assert counts["events: joined"] == len(records) - LISTS
    assert "<dt>events: joined</dt>" in (root / "work" / "2" / "report.html").read_text()
    assert record.outcome == "canary"


def test_a_better_candidate_becomes_active_by_itself(learned):
    root, _ = learned
    assert serving(root) == ServingConfig("1", "2", SHARE)
    users = [f"v{n}" for n in range(1500)]
    begin = BEGIN + 2000 * HOUR_MS
    requests = [
        (user, begin + MINUTE_MS * n // 2, "2" if in_canary("sale", user, SHARE) else "1")
        for n, user in enumerate(users)
    ]
    sessions = {v: Session.load(root / "models" / "sale" / v) for v in "12"}
    write_segment(root / "journal", traffic(sessions, requests, seed=5))
    rules = {"reward": {"types": ["like"], "effect": 0.3}, "window_h": 1, "settle_h": 0.5}
    (root / "rules.yaml").write_text(yaml.safe_dump(rules))
    status = main([
        "experiment", "--journal", str(root / "journal"), "--models", str(root / "models"),
        "--rules", str(root / "rules.yaml"), "--until", str(begin + 24 * HOUR_MS), "--apply",
        "--out", str(root / "out"),
    ])  # fmt: skip
    figures = json.loads((root / "out" / "experiment.json").read_text())
    assert (status, figures["decision"]["action"]) == (0, "promote"), figures["decision"]
    assert serving(root) == ServingConfig("2")


def test_the_former_version_as_candidate_fails_by_validation_alone(learned):
    root, _ = learned
    old, new = (root / "models" / "sale" / version for version in "12")
    record = RunRecord.read(root / "work" / "2")
    verification = record.stages["export"]["verification"]
    gates = judge_candidate(new, old, root / "work" / "2" / "data", verification, Limits(0.05, 20))
    assert [gate["name"] for gate in gates["gates"] if not gate["passed"]] == ["validation"]


def test_a_candidate_from_the_same_lists_with_permuted_labels_never_reaches_the_store(
    learned, champion, tmp_path
):
    root, _ = learned
    log = pl.read_parquet(root / "work" / "joined" / "impressions" / "*.parquet")
    log = log.with_columns(pl.col("label").shuffle(seed=1).over("request_id"))
    again = linked(champion, tmp_path / "again")
    log.write_parquet(again / "permuted.parquet")
    options = options_of(
        again, log=((again / "permuted.parquet",),), epochs=4, margin=0.05,
        promote=f"canary:{SHARE}",
    )  # fmt: skip
    assert retrain(options, IN_PROCESS) == 1
    (gate,) = RunRecord.read(again / "work" / "2").stages["labels"]["gates"]
    assert not gate["passed"]
    assert not (again / "models" / "sale" / "2").exists()
    assert serving(again) == ServingConfig("1")


def joined_before(learned, champion, directory):
    """Return a directory whose journal is joined, and whose version 1 is active."""
    root, _ = learned
    again = linked(champion, directory)
    shutil.copytree(root / "work" / "joined", again / "work" / "joined")
    return again


def test_a_run_that_waits_for_a_canary_forgets_users_whose_deletion_was_recorded(
    learned, champion, tmp_path
):
    root = joined_before(learned, champion, tmp_path / "root")
    ServingConfig("1", "5", SHARE).write(root / "models" / "sale")
    write_segment(root / "journal", [ErasureRecord("e", BEGIN + 2000 * HOUR_MS, "u1")])
    options = options_of(root, journal=root / "journal", log=(), promote="canary:0.1")
    for dry_run, users in ((True, USERS), (False, USERS - 1)):
        assert retrain(dataclasses.replace(options, dry_run=dry_run)) == 0
        lists = pl.read_parquet(root / "work" / "joined" / "requests" / "*.parquet")
        assert lists["user_id"].n_unique() == users
    assert "u1" not in set(lists["user_id"])


@pytest.mark.parametrize(("settle_s", "users"), [(0.0, USERS), (1e9, USERS - 1)])
def test_an_erasure_of_the_journal_may_come_before_a_run_if_it_keeps_the_record_of_the_deletion(
    learned, champion, tmp_path, settle_s, users
):
    root = joined_before(learned, champion, tmp_path / "root")
    ServingConfig("1", "5", SHARE).write(root / "models" / "sale")
    write_segment(root / "journal", [ErasureRecord("e", BEGIN + 2000 * HOUR_MS, "u1")])
    erase(root / "journal", (), 0.0, settle_s)
    assert retrain(options_of(root, journal=root / "journal", log=(), promote="canary:0.1")) == 0
    lists = pl.read_parquet(root / "work" / "joined" / "requests" / "*.parquet")
    assert lists["user_id"].n_unique() == users


def test_a_window_of_time_leaves_older_parts_out(learned, champion, tmp_path):
    root = joined_before(learned, champion, tmp_path / "root")
    write_segment(root / "journal", learned[1])
    options = options_of(root, journal=root / "journal", log=(), until=END, last="5d")
    steps = {name: STAGES[name] for name in ("join", "prepare")}
    steps |= {"labels": reject, "train": STAGES["train"]}
    assert retrain(options, steps) == 1
    figures = RunRecord.read(root / "work" / "2").stages["prepare"]
    log = root / "work" / "joined" / "impressions"
    since = read_until(END) - 5 * 24 * HOUR_MS
    recent = pl.read_parquet(log / "*.parquet").filter(pl.col("timestamp") >= since)
    lists = sum(counts["requests"] for counts in figures.values() if isinstance(counts, dict))
    assert 0 < lists == recent["request_id"].n_unique() < LISTS
    with pytest.raises(RetrainError, match="--last: the latest joined part begins at 20231119T"):
        latest_parts([log], since + 4 * 24 * HOUR_MS)


def test_lists_that_are_cut_at_the_last_click_are_refused(root):
    write_journal(root, 3)
    text = (root / "schema.yaml").read_text(encoding="utf-8")
    (root / "cut.yaml").write_text(text + "passed_over: {rule: above}\n", encoding="utf-8")
    options = options_of(root, journal=root / "journal", log=(), schema=root / "cut.yaml")
    with pytest.raises(RetrainError, match="rule: must be all or stated, got above"):
        retrain(options)


def test_a_journal_is_refused_until_it_has_lists_whose_feedback_is_settled(root):
    write_journal(root, 3)
    options = options_of(root, journal=root / "journal", log=(), until="2023-11-14T23:00:00Z")
    steps = {"join": STAGES["join"], "labels": reject, "train": STAGES["train"]}
    with pytest.raises(RetrainError, match=r"must have a list whose feedback is settled, got none"):
        retrain(options, steps)
    assert retrain(dataclasses.replace(options, until=END), steps) == 1
    assert RunRecord.read(root / "work" / "2").stages["join"]["counts"]["lists"] == 3
