"""`python -m model experiment` on journals of a canary."""

import json

import pytest
import yaml

from model.__main__ import main
from model.data.join.options import read_until
from model.experiment.errors import ExperimentError
from model.experiment.run import carry_out
from service.engine.contract import BundleError
from service.models import store as stores
from service.models.store import ServingConfig, exclusive_config
from tests.support.experiments import BEGIN, HOUR_MS, SHARE, traffic, write_store
from tests.support.journals import write_segment

USERS = 1200
RULES = {
    "reward": {"types": ["like"], "effect": 0.2},
    "guards": {"degraded": {"rise": 0.02}, "slow": {"above_ms": 50, "rise": 0.05}},
    "window_h": 1, "settle_h": 0.5, "longest_days": 7,
}  # fmt: skip
END = "2023-11-17T20:00:00Z"  # 70 hours after BEGIN


@pytest.fixture
def store(tmp_path):
    (tmp_path / "journal").mkdir()
    return write_store(tmp_path / "models")


def look(tmp_path, store, *more, **rules):
    """Run the command over the journal of the test; return its status and figures."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({**RULES, **rules}))
    status = main([
        "experiment", "--journal", str(tmp_path / "journal"), "--models", str(store), "--rules",
        str(tmp_path / "rules.yaml"), "--out", str(tmp_path / "out"), *more,
    ])  # fmt: skip
    path = tmp_path / "out" / "experiment.json"
    return status, json.loads(path.read_text()) if path.exists() else None


def served(store):
    return ServingConfig.read(store / "shop")


def test_a_better_canary_is_promoted_and_the_figures_and_the_plot_are_written(
    tmp_path, store, capsys
):
    write_segment(tmp_path / "journal", traffic(store, USERS, (0.3, 0.7)))
    status, figures = look(tmp_path, store, "--until", END, "--apply")
    assert (status, figures["decision"]["action"]) == (0, "promote")
    low, high = figures["metrics"]["reward"]["difference"][1:]
    assert 0 < low < 0.4 < high
    assert served(store) == ServingConfig("2")
    assert "decision: promote" in capsys.readouterr().out
    assert (tmp_path / "out" / "experiment.png").stat().st_size > 5000


def test_a_worse_canary_is_rolled_back(tmp_path, store):
    write_segment(tmp_path / "journal", traffic(store, USERS, (0.7, 0.3)))
    assert look(tmp_path, store, "--until", END, "--apply")[1]["decision"]["action"] == "roll back"
    assert served(store) == ServingConfig("1")


def test_a_look_without_apply_changes_nothing(tmp_path, store):
    write_segment(tmp_path / "journal", traffic(store, USERS, (0.7, 0.3)))
    assert look(tmp_path, store, "--until", END)[1]["decision"]["action"] == "roll back"
    assert served(store) == ServingConfig("1", "2", SHARE)


def test_equal_versions_wait_until_the_longest_time_and_then_follow_the_rule(tmp_path, store):
    write_segment(tmp_path / "journal", traffic(store, USERS, (0.4, 0.4)))
    assert look(tmp_path, store, "--until", END)[1]["decision"]["action"] == "wait"
    figures = look(tmp_path, store, "--until", END, longest_days=1, at_the_end="promote")[1]
    assert figures["decision"]["action"] == "promote"


def test_a_canary_whose_guard_has_risen_is_not_promoted_at_the_end(tmp_path, store):
    records = traffic(
        store, USERS, (0.4, 0.4),
        degraded=lambda draw, canary: ["model"] if canary and draw.random() < 0.05 else [],
    )  # fmt: skip
    write_segment(tmp_path / "journal", records)
    ending = {"longest_days": 1, "at_the_end": "promote"}
    decision = look(tmp_path, store, "--until", END, **ending)[1]["decision"]
    assert decision["action"] == "roll back"
    assert decision["reasons"][1].startswith("degraded: the share rises by 0.0")
    tolerant = {"degraded": {"rise": 0.1}}
    decision = look(tmp_path, store, "--until", END, **ending, guards=tolerant)[1]["decision"]
    assert decision["action"] == "promote"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (
            "degraded",
            lambda draw, canary: ["model"] if canary and draw.random() < 0.3 else [],
        ),
        ("total_ms", lambda draw, canary: 90.0 if canary and draw.random() < 0.4 else 1.0),
    ],
)
def test_a_guard_rolls_a_canary_back_that_earns_more(tmp_path, store, field, value):
    write_segment(tmp_path / "journal", traffic(store, USERS, (0.3, 0.5), **{field: value}))
    decision = look(tmp_path, store, "--until", END)[1]["decision"]
    assert decision["action"] == "roll back"
    assert "the share rises by at least" in decision["reasons"][0]


def test_few_users_wait_although_the_difference_is_large(tmp_path, store):
    write_segment(tmp_path / "journal", traffic(store, 300, (0.0, 1.0)))
    decision = look(tmp_path, store, "--until", END)[1]["decision"]
    assert decision["action"] == "wait"
    assert decision["reasons"][0].startswith("users: each version needs at least 200")


def test_lost_lists_of_one_version_are_noticed_by_the_share_of_users(tmp_path, store):
    records = traffic(store, USERS, (0.3, 0.5))
    lost = {each.request_id for each in records if each.request_id[-1] in "01234"
            and getattr(each, "variant", "") == "active"}  # fmt: skip
    kept = [each for each in records if each.request_id not in lost]
    write_segment(tmp_path / "journal", kept)
    decision = look(tmp_path, store, "--until", END)[1]["decision"]
    assert decision["action"] == "wait"
    assert decision["reasons"][0].startswith("share: the canary has 0.")


def test_no_feedback_at_all_never_promotes(tmp_path, store):
    write_segment(tmp_path / "journal", traffic(store, USERS, (0.0, 0.0)))
    reward = {"types": ["like"], "effect": 0.2, "promote_above": -0.5}
    decision = look(tmp_path, store, "--until", END, reward=reward)[1]["decision"]
    assert decision["action"] == "wait"
    assert decision["reasons"] == ["reward: no list has feedback of the types that count"]


def test_a_store_that_changed_meanwhile_is_not_overwritten(store):
    before = served(store)
    ServingConfig("1").write(store / "shop")
    with pytest.raises(ExperimentError, match=r"as it was read, got .*look again"):
        carry_out("promote", store / "shop", before)
    assert served(store) == ServingConfig("1")


def test_a_decision_is_not_carried_out_while_another_process_writes_the_store(store, monkeypatch):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.01)
    before = served(store)
    with (
        exclusive_config(store / "shop"),
        pytest.raises(BundleError, match="held by another process"),
    ):
        carry_out("promote", store / "shop", before)
    assert served(store) == before
    carry_out("promote", store / "shop", before)
    assert served(store) == ServingConfig("2")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"reward": {"effect": 0}}, "reward.effect: Input should be greater than 0, got 0"),
        ({"reward": {}}, "reward.effect: Field required"),
        ({"gaurds": {}}, "gaurds: Extra inputs are not permitted"),
        ({"at_the_end": "keep"}, "at_the_end: Input should be 'promote', 'roll back' or 'wait'"),
    ],
)
def test_a_wrong_rule_is_refused_with_field_rule_and_value(tmp_path, store, capsys, rules, message):
    assert look(tmp_path, store, **rules)[0] == 2
    assert message in capsys.readouterr().err


def test_a_time_that_is_none_is_refused(tmp_path, store, capsys):
    assert look(tmp_path, store, "--since", "yesterday")[0] == 2
    assert "--since: must be a time such as" in capsys.readouterr().err


def test_without_a_canary_there_is_nothing_to_decide(tmp_path, store, capsys):
    ServingConfig("1").write(store / "shop")
    assert look(tmp_path, store, "--apply") == (0, None)
    assert "serving.json: no canary" in capsys.readouterr().out
    assert served(store) == ServingConfig("1")


def test_the_end_of_these_tests_is_after_their_traffic():
    assert read_until(END) > BEGIN + USERS * 60_000 + 1.5 * HOUR_MS
