"""The gate of a bundle takes the fewest steps that validation can justify."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from export import bundle
from export.gate import (
    BY_OPTION,
    BY_RULE,
    QUANTILES,
    Gate,
    choose_gate,
    one_standard_error,
    threshold_of,
)
from model.data.dataset import Dataset
from model.learning import checkpoint
from model.learning.policy import Policy
from service.engine.contract import Manifest
from service.engine.session import Session
from tests.support.runs import ROOT

# Four lists behind three gates. Against the last, which is best with .5, the first is below by
# (.4, .2, 0, .2), .2 on average with a standard error of .1633 / 2 = .0816, and the second by
# (.1, -.1, .1, 0), .025 on average with a standard error of .0957 / 2 = .0479.
BEST = np.array([0.8, 0.6, 0.2, 0.4])
QUALITY = np.stack([BEST - [0.4, 0.2, 0.0, 0.2], BEST - [0.1, -0.1, 0.1, 0.0], BEST])
STEPS = np.array([0.0, 2.0, 9.0])


def test_the_rule_takes_the_fewest_steps_within_the_paired_standard_error_of_the_best():
    assert one_standard_error(QUALITY, STEPS) == 1
    # The lists differ by far more than the gates. Unpaired, no step at all would do.
    deviation = QUALITY.std(axis=1, ddof=1)
    assert (QUALITY[2].mean() - QUALITY[0].mean()) < np.hypot(deviation[0], deviation[2])


def test_the_rule_takes_the_best_if_every_other_is_worse_by_more_than_its_error():
    worse = QUALITY.copy()
    worse[1] = BEST - [0.11, 0.09, 0.1, 0.1]
    assert one_standard_error(worse, STEPS) == 2


def test_the_rule_allows_no_step_at_all():
    equal = QUALITY.copy()
    equal[0] = BEST - [-0.1, 0.1, -0.1, 0.2]
    assert one_standard_error(equal, STEPS) == 0
    assert one_standard_error(QUALITY[::-1], STEPS) == 0  # without a step it is the best


def test_a_closed_gate_is_above_every_entropy_and_the_open_one_below_every_choice():
    entropies = torch.tensor([0.1, 0.5, 0.9])
    assert threshold_of(entropies, 0.5, 100) == 0.5
    assert threshold_of(entropies, 0.0, 100) == 0.0
    longest = torch.zeros(100).log_softmax(0)
    assert threshold_of(entropies, 1.0, 100) > float(-(longest.exp() * longest).sum()) + 1e-3


def test_the_answer_says_what_the_steps_are_worth():
    gate = Gate("ndcg@10", (0.0, 0.5, 1.0), (0.0, 1.0, 5.0), QUALITY[::-1], STEPS[::-1], 2,
                BY_RULE, 12)  # fmt: skip
    assert gate.answer().startswith("The gate takes no reasoning step; ndcg@10 on 4 validation")
    by_rule = dataclasses.replace(gate, chosen=1).answer()
    assert by_rule.endswith("below the best (0.0250) by no more than the standard error (0.0479).")
    best = dataclasses.replace(gate, chosen=0)
    assert best.answer().endswith("no fewer steps are as good but for the standard error.")
    by_option = dataclasses.replace(gate, rule=BY_OPTION, chosen=1)
    assert by_option.answer().startswith("By --entropy-quantile the gate takes 2.0 of 12 reasoning")


def test_the_answer_says_what_the_steps_of_the_option_earn_and_what_the_rule_would_take():
    gate = Gate("ndcg@10", (0.0, 0.5, 1.0), (0.0, 1.0, 5.0), QUALITY[::-1], STEPS[::-1], 0,
                BY_OPTION, 12)  # fmt: skip
    assert "The steps add +0.2000 with a standard error of 0.0816: they earn more" in gate.answer()
    assert gate.answer().endswith("would take 2.0 of 12 reasoning steps a slate.")
    nothing = dataclasses.replace(gate, quality=np.stack([BEST, BEST, BEST])).answer()
    assert "they earn nothing that can be measured. The rule" in nothing
    assert nothing.endswith("The rule of one standard error would take no reasoning step.")
    assert "The steps add" not in dataclasses.replace(gate, chosen=2).answer()


def chosen_by_hand(curve):
    """Apply the rule to the figures of a manifest."""
    good = [point for point in curve if point["below_best"] <= point["standard_error"] + 1e-6]
    return min(good, key=lambda point: point["steps"])


def test_a_bundle_has_the_threshold_that_the_rule_takes_from_its_curve(smoke_bundle, smoke_run):
    directory, outcome = smoke_bundle
    manifest = Manifest.read(directory)
    gate = manifest.gate
    assert gate == outcome["gate"]
    assert gate is not None
    assert gate["rule"] == BY_RULE
    curve = gate["curve"]
    assert [point["quantile"] for point in curve] == [*QUANTILES]
    steps = [point["steps"] for point in curve]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 0.0
    assert steps[0] == pytest.approx(4 * 2, abs=0.01)  # every step of every position
    assert min(point["milliseconds"] for point in curve) > 0
    chosen = chosen_by_hand(curve)
    assert gate["quantile"] == chosen["quantile"]
    assert manifest.entropy_threshold == pytest.approx(chosen["threshold"], abs=1e-6)


def test_the_curve_is_that_of_the_validation_lists(smoke_bundle, smoke_run, warm_ranklens):
    directory, _ = smoke_bundle
    gate = Manifest.read(directory).gate
    assert gate is not None
    run = checkpoint.load(smoke_run)
    lists = Dataset(warm_ranklens).lists(["valid"], run.config.train_lists).rankable()
    assert gate["lists"] == len(lists)
    for point in gate["curve"][::4]:
        policy = Policy(run.config, run.generator, point["threshold"])
        decoded = policy.greedy_slates(lists, run.config.reasoning.budget)
        steps = torch.cat([d.steps for d in decoded]).sum(dim=1).float().mean()
        assert float(steps) == pytest.approx(point["steps"], abs=0.05)


def test_the_option_overrides_the_rule_and_the_session_follows_it(
    smoke_run, warm_ranklens, tmp_path, monkeypatch
):
    monkeypatch.setattr(bundle, "verify", lambda *arguments: {})
    run = checkpoint.load(smoke_run)
    steps = {}
    for quantile in (0.0, 1.0):
        out = tmp_path / "smoke" / str(int(quantile))
        outcome = bundle.write(run, out, warm_ranklens, quantile)
        assert outcome["gate"]["rule"] == BY_OPTION
        assert outcome["gate"]["quantile"] == quantile
        session = Session.load(out)
        requests = [i.request for i, _ in zip(Dataset(warm_ranklens).impressions(["test"]),
                                              range(20), strict=False)]  # fmt: skip
        slates = session.run([session.row(request) for request in requests])
        steps[quantile] = sum(int(slate.steps.sum()) for slate in slates)
    assert steps == {0.0: 20 * 4 * 2, 1.0: 0}
    gate = choose_gate(run, warm_ranklens, 0.37)
    assert gate is not None
    assert gate.quantiles[gate.chosen] == gate.quantiles[2] == 0.37


def test_an_impossible_quantile_is_refused(smoke_run, tmp_path):
    command = [sys.executable, "-m", "export", "--checkpoint", str(smoke_run), "--out",
               str(tmp_path / "a" / "1"), "--entropy-quantile", "1.5"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--entropy-quantile: must be from 0 to 1, got 1.5" in done.stderr
    assert json.loads((smoke_run / "checkpoint.json").read_text())["stage"] == "done"


def test_a_plain_host_and_a_data_set_of_few_lists_have_no_rule(smoke_run, warm_ranklens):
    run = checkpoint.load(smoke_run)
    reasoning = dataclasses.replace(run.config.reasoning, budget=0)
    plain = dataclasses.replace(run, config=dataclasses.replace(run.config, reasoning=reasoning))
    assert choose_gate(plain, warm_ranklens) is None
    few = dataclasses.replace(run, config=dataclasses.replace(run.config, train_lists=20))
    gate = choose_gate(few, warm_ranklens)
    assert gate is not None
    assert gate.rule == BY_OPTION
    assert gate.quantiles[gate.chosen] == run.config.reasoning.entropy_quantile
