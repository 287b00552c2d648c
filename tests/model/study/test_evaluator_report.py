"""Measures of an evaluator against hand-computed values, and the report of a small run."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from model.learning.train import train
from model.network.config import Config, StageConfig
from model.study.click_model import prepare_simulation
from model.study.commands import EvaluatorReport
from model.study.evaluator_report import auc, binary_cross_entropy, calibration, report


def test_auc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half():
    score = np.array([0.1, 0.4, 0.35, 0.8])
    liked = np.array([False, False, True, True])
    assert auc(score, liked) == pytest.approx(3 / 4)  # .35 is below .4
    assert auc(np.array([0.5, 0.5, 0.2, 0.9]), np.array([True, False, False, False])) == 0.5


def test_calibration_error_is_the_mean_gap_between_deciles_and_like_rates():
    probability = np.repeat(np.linspace(0.05, 0.95, 10), 20)
    liked = np.tile(np.arange(20), 10) < np.repeat(np.arange(1, 20, 2), 20)  # the rates themselves
    predicted, observed, error = calibration(probability, liked)
    assert predicted == pytest.approx(observed)
    assert error == pytest.approx(0.0, abs=1e-12)
    assert calibration(np.minimum(probability + 0.04, 1.0), liked)[2] == pytest.approx(0.04)


def test_cross_entropy_is_in_nats():
    losses = binary_cross_entropy(np.array([0.5, 0.8, 0.8]), np.array([True, True, False]))
    assert losses == pytest.approx([np.log(2), -np.log(0.8), -np.log(0.2)])


def test_the_report_measures_both_evaluators_and_is_the_same_when_repeated(tmp_path):
    prepare_simulation(tmp_path / "data", 400, seed=0)
    config = Config(slate_length=4, max_candidates=32, utility="even").smoke()
    stage = StageConfig(epochs=8, batch=32, learning_rate=5e-3)
    config = dataclasses.replace(config, train_lists=None, evaluator=stage)
    torch.set_num_threads(1)
    train(config, tmp_path / "data", tmp_path / "run")
    command = EvaluatorReport(run=tmp_path / "run", data=tmp_path / "data", out=tmp_path / "out")
    report(command)
    text = (tmp_path / "out" / "evaluator.json").read_text()
    payload = json.loads(text)
    for name in ("evaluator", "second evaluator"):
        assert set(payload[name]["bce"]) == {"evaluator", "constant like rate"}
        assert 0.5 < payload[name]["auc"] < 1.0
        assert payload[name]["change by shuffling"][0] > 0.0  # the evaluator depends on the order
        assert len(payload[name]["position"]["observed"]) == 8
    assert payload["evaluator"]["auc"] != payload["second evaluator"]["auc"]
    mean, low, high = payload["agreement"]["random slates"]
    assert -1.0 <= low <= mean <= high < 1.0
    markdown = (tmp_path / "out" / "evaluator.md").read_text()
    assert f"{payload['evaluator']['auc']:.4f}" in markdown
    assert (tmp_path / "out" / "evaluator.png").stat().st_size > 1000
    report(command)  # from the second evaluator's checkpoint
    assert (tmp_path / "out" / "evaluator.json").read_text() == text
