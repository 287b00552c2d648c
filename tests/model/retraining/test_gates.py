"""The gates of a candidate."""

import json

import numpy as np
import pytest

from model.data.metrics import slate_metrics
from model.retraining.gates import (
    Ranked,
    chance_of,
    golden_gate,
    labels_gate,
    latency_gate,
    limits_gate,
    quality_gate,
)
from service.engine.contract import GOLDEN
from service.engine.features.schema import BINARY, LabelScale
from service.engine.session import Session
from tests.support.bundles import BUNDLE


def differences(mean, lists=2000, users=200, deviation=0.1):
    draw = np.random.default_rng(0)
    return draw.normal(mean, deviation, lists), draw.integers(0, users, lists)


@pytest.mark.parametrize(
    ("mean", "lists", "margin", "passes"),
    [
        (0.02, 2000, 0.01, True),
        (0.0, 2000, 0.01, True),
        (-0.03, 2000, 0.01, False),
        (-0.03, 2000, 0.5, False),  # a loss beyond noise, however wide the margin
        (0.0, 100, 0.01, False),  # noise could hide a loss
        (0.0, 100, 0.1, True),
    ],
)
def test_validation_passes_unless_it_shows_a_loss_or_could_hide_one(mean, lists, margin, passes):
    values, users = differences(mean, lists)
    assert quality_gate(values, users, margin).passed == passes


def test_lists_of_few_users_are_too_few_whatever_their_number():
    for count, passes in ((29, False), (30, True)):
        values, users = differences(0.5, users=count)
        assert quality_gate(values, users, 0.5).passed == passes


def test_lists_of_a_user_count_as_one_observation():
    values, _ = differences(0.0, 200, 200)
    alone = quality_gate(values, np.arange(200), 0.02).figures["difference"]
    repeated = quality_gate(np.repeat(values, 9), np.repeat(np.arange(200), 9), 0.02)
    assert repeated.figures["difference"] == pytest.approx(alone)
    naive = quality_gate(np.repeat(values, 9), np.arange(1800), 0.02).figures["difference"]
    assert naive[2] - naive[1] < 0.4 * (alone[2] - alone[1])


def ranked(gain, lists=300):
    values, users = differences(gain, lists)
    return Ranked(0.5 + values[None], np.full(lists, 0.5), users)


def test_a_log_passes_only_if_the_champion_ranks_both_splits_better_than_chance():
    good, noise, bad = ranked(0.1), ranked(0.0), ranked(-0.1)
    assert labels_gate({"valid": good, "test": good}).passed
    for valid, test in ((noise, good), (good, noise), (bad, good), (good, ranked(0.5, 20))):
        assert not labels_gate({"valid": valid, "test": test}).passed


@pytest.mark.parametrize("scale", [BINARY, LabelScale((0.0, 1.0), "linear")])
def test_chance_is_the_mean_over_random_orders(scale):
    draw, labels = np.random.default_rng(0), np.array([1.0, 0.0, 0.25, 0.0, 0.75, 0.0])
    orders = np.array([draw.permutation(6)[:4] for _ in range(20_000)])
    metrics = slate_metrics(orders, np.tile(labels, (len(orders), 1)), scale)
    values = metrics["graded ndcg@10" if scale.is_graded else "ndcg@10"]
    error = values.std() / np.sqrt(len(values))
    assert abs(chance_of(tuple(labels), scale, 4) - values.mean()) < 4 * error
    assert abs(chance_of(tuple(labels), scale, 5) - values.mean()) > 4 * error


def test_latency_compares_medians_so_that_one_stall_does_not_fail_a_candidate():
    old = np.full(100, 1e-3)
    stalled = np.where(np.arange(100) == 7, 1.0, 1.2e-3)
    assert latency_gate(old, stalled, 1.25).passed
    assert not latency_gate(old, np.full(100, 1.3e-3), 1.25).passed


@pytest.fixture(scope="module")
def loaded():
    return Session.load(BUNDLE)


def test_golden_requests_of_the_champion_must_be_answered_in_full(loaded, tmp_path):
    gate = golden_gate(loaded, BUNDLE)
    assert gate.passed
    assert gate.figures["same_slate"] == gate.figures["requests"] > 0
    entries = json.loads((BUNDLE / GOLDEN).read_text())
    for name, change in (
        ("unknown", lambda e: e["request"]["candidates"][0].update(features={"no such": 1})),
        ("longer", lambda e: e["slate"].append("x")),
    ):
        changed = json.loads(json.dumps(entries))
        change(changed[2])
        (tmp_path / name).mkdir()
        (tmp_path / name / GOLDEN).write_text(json.dumps(changed))
        gate = golden_gate(loaded, tmp_path / name)
        assert not gate.passed
        assert gate.figures["reason"].startswith("2: ")


def test_a_candidate_for_shorter_lists_does_not_pass(loaded):
    import copy
    import dataclasses

    shorter = copy.copy(loaded)
    limit = loaded.manifest.max_candidates
    shorter.manifest = dataclasses.replace(loaded.manifest, max_candidates=limit - 1)
    assert limits_gate(shorter, loaded).passed
    assert not limits_gate(loaded, shorter).passed
