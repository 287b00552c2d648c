"""Gates of the study take equal mean steps on the same weights."""

import math

import numpy as np
import pytest
import torch

from model.learning.policy import Policy
from model.network.generator import Choice, Generator
from model.study.search_gates import (
    HALTING,
    KINDS,
    SHARES,
    TOLERANCE,
    ConvergenceGate,
    build_gates,
    decode_all,
    gate_name,
    plan_steps,
)
from tests.support.objectives import config_of, featuriser, random_lists

REASONING = {"budget": 3, "entropy_quantile": 0.5}
NETWORK = {"width": 16, "heads": 2, "dropout": 0.0, "host": "pointer", "encoder_blocks": 0}
LENGTH = 5


@pytest.fixture(scope="module")
def policy():
    """A policy of random weights whose reasoning changes the choice."""
    config = config_of(utility=1.0, length=LENGTH, network=NETWORK, reasoning=REASONING)
    made = featuriser()
    torch.manual_seed(0)
    columns = made.numbers_width, made.vocabulary_size
    generator = Generator(config.network, *columns, LENGTH, config.reasoning)
    with torch.no_grad():
        generator.refine.weight.add_(0.3 * torch.randn(16, 16))
        generator.pointer_query.weight.mul_(4)
    return Policy(config, generator, math.inf)


def mean_share(policy, lists, build):
    torch.manual_seed(0)
    steps = torch.cat([d.steps for d in decode_all(policy, lists, build)])
    return float(steps.sum(dim=1).double().mean()) / (LENGTH * 3)


def test_gates_of_equal_steps_take_them_on_other_lists_too(policy):
    valid, test = random_lists([12] * 300), random_lists([12] * 300, seed=1)
    names = [gate_name(kind, share) for kind in KINDS for share in SHARES]
    gates = build_gates(policy, valid, [*names, gate_name(HALTING, 0.5)], 0)
    rounding = 0.5 / (LENGTH * 3)  # a plan has whole steps
    for name in (*names, gate_name(HALTING, 0.5)):
        share = float(name.split(" ")[1]) / 100
        realised = mean_share(policy, test, gates[name])
        assert realised == pytest.approx(share, abs=TOLERANCE + rounding), name
    # A gate that is not fitted to the share misses it by more than that.
    quarter = mean_share(policy, test, gates["entropy 25 %"])
    assert abs(quarter - 0.5) > TOLERANCE + rounding


def test_plans_fill_the_slate_from_their_positions_on_up_to_their_total():
    assert plan_steps("first", 5, 3, 0.5) == [3, 3, 2, 0, 0]
    assert plan_steps("middle", 5, 3, 0.5) == [0, 3, 3, 2, 0]
    assert plan_steps("middle", 4, 3, 0.25) == [0, 3, 0, 0]
    assert plan_steps("first", 4, 3, 0.1) == [1, 0, 0, 0]


def choice_of(probabilities):
    logits = torch.tensor(probabilities).log()
    return Choice(torch.ones_like(logits, dtype=torch.bool), logits, torch.zeros(len(logits)), ())


def test_the_halting_gate_stops_where_the_last_step_changed_the_choice_by_too_little():
    gate = ConvergenceGate(0.1, 3)
    assert gate(0, 0, choice_of([[0.5, 0.5], [0.5, 0.5]])).tolist() == [True, True]
    # KL((.5, .5) || (.9, .1)) = ln 5/3 + ... = .511; to (.55, .45) it is .005.
    assert gate(0, 1, choice_of([[0.9, 0.1], [0.55, 0.45]])).tolist() == [True, False]
    assert gate(1, 0, choice_of([[0.9, 0.1], [0.55, 0.45]])).tolist() == [True, True]
    divergence = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    for least, goes_on in ((divergence - 1e-3, True), (divergence + 1e-3, False)):
        gate = ConvergenceGate(least, 3)
        gate(0, 0, choice_of([[0.5, 0.5]]))
        assert gate(0, 1, choice_of([[0.9, 0.1]])).tolist() == [goes_on]


def test_the_random_gate_draws_the_same_coins_for_the_same_seed(policy):
    lists = random_lists([12] * 50)
    steps = [
        np.concatenate([d.steps.numpy() for d in decode_all(policy, lists, gates["random 50 %"])])
        for gates in (build_gates(policy, lists, ["random 50 %"], seed) for seed in (0, 0, 1))
    ]
    assert np.array_equal(steps[0], steps[1])
    assert not np.array_equal(steps[0], steps[2])
