"""Imitation of a teacher: its targets, its gates, its gradients and its resumption."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from model.data.dataset import Dataset
from model.learning import checkpoint
from model.learning.imitation import Imitation, RecordingGate, soft_loss, soft_targets
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy
from model.learning.teacher import search_beams, teach
from model.learning.train import Run, train
from model.network.config import Config
from model.network.controls import PlannedGate
from model.network.generator import Generator
from model.network.layers import MASKED
from model.network.objectives_config import SearchConfig
from model.network.reasoning import Decoded
from tests.support.objectives import config_of, featuriser, objective_of, random_lists
from tests.support.runs import SMOKE, tensors_of

ALPHA_DCG = {"kind": "alpha_dcg", "by": "genres", "weight": 1.0, "alpha": 0.9}
REASONING = {"budget": 2}
NETWORK = {"width": 16, "heads": 2, "dropout": 0.0, "host": "pointer", "encoder_blocks": 0}


def pieces(lists, objective_type=Objective, seed=0, **search):
    """Return an imitation on lists, and its policy, of a generator with random weights."""
    config = config_of(ALPHA_DCG, network=NETWORK, reasoning=REASONING)
    made = featuriser()
    torch.manual_seed(seed)
    columns = made.numbers_width, made.vocabulary_size
    generator = Generator(config.network, *columns, config.slate_length, config.reasoning)
    with torch.no_grad():  # refine begins at zero and would hide the token's gradient
        generator.refine.weight.add_(0.1 * torch.randn(16, 16))
    settings = SearchConfig(**search)
    policy = Policy(config, generator, 0.5)
    objective = objective_type(config, made, objective_of(config).reward_model)
    lessons = teach(objective, settings, lists, torch.device("cpu"), None)
    return Imitation(settings, policy, objective, lessons), policy


def test_soft_targets_are_the_softmax_of_gains_over_the_largest_and_the_temperature():
    gains = torch.tensor([[0.2, 0.1, 0.9], [-0.2, -0.1, 0.0]])
    available = torch.tensor([[True, True, False], [True, True, True]])
    targets = soft_targets(gains, available, 0.5)
    first = math.exp(2) / (math.exp(2) + math.exp(1))
    assert targets[0].tolist() == pytest.approx([first, 1 - first, 0.0], abs=1e-6)
    parts = [math.exp(-2), math.exp(-1), 1.0]
    assert targets[1].tolist() == pytest.approx([p / sum(parts) for p in parts], abs=1e-6)
    torch.testing.assert_close(soft_targets(7 * gains, available, 0.5), targets)
    assert abs(float(soft_targets(gains, available, 0.25)[0, 0]) - first) > 0.1


def test_the_loss_is_lowest_at_the_targets_and_skips_empty_positions():
    gains = torch.tensor([[[0.3, 0.1, 0.2], [9.0, 9.0, 9.0]]])
    present = torch.tensor([[True, False]])
    targets = soft_targets(gains[:, :1], torch.ones(1, 1, 3, dtype=torch.bool), 0.5)
    logits = torch.cat([targets.log(), torch.full((1, 1, 3), MASKED)], dim=1)
    entropy = -float((targets * targets.log()).sum())
    assert float(soft_loss(logits, gains, present, 0.5)) == pytest.approx(entropy, abs=1e-6)
    assert float(soft_loss(logits.flip(2), gains, present, 0.5)) > entropy + 0.1


def test_gradients_reach_the_reasoning_token_through_the_soft_targets_only_where_it_is_read():
    lists = random_lists([6] * 16)
    for step_weight in (0.0, 1.0):
        imitation, policy = pieces(lists, step_weight=step_weight)
        token = policy.generator.reason_token.weight
        for plan, reached in (([2, 2, 2], True), ([0, 0, 0], False)):
            imitation.gate = lambda _encoded, plan=plan: PlannedGate(plan)
            policy.generator.zero_grad(set_to_none=True)
            torch.manual_seed(0)
            imitation.loss(Batch(lists, np.arange(16))).backward()
            size = 0.0 if token.grad is None else float(token.grad.abs().max())
            assert (size > 1e-6) == reached


def test_targets_sharpen_from_the_first_step_to_the_last():
    imitation, _ = pieces(random_lists([4]), temperature=0.05, first_temperature=0.8)
    imitation.budget = 3
    temperatures = [imitation.temperature(step) for step in (1, 2, 3)]
    assert temperatures == pytest.approx([0.8, 0.2, 0.05])
    imitation.budget = 1
    assert imitation.temperature(1) == 0.8


def test_the_loss_of_steps_scores_the_choices_that_a_further_step_revised():
    lists = random_lists([6] * 4)
    imitation, policy = pieces(lists, step_weight=1.0)
    batch = Batch(lists, np.arange(4))
    encoded = policy.generator.encode(batch.numbers, batch.tokens, batch.mask)
    gate = RecordingGate(PlannedGate([2, 1, 0]))
    order = imitation.slates
    decoded = policy.decode(encoded, lambda position, _logits: order[:, position], gate)
    gains = imitation.objective.of(batch).gains_along(decoded.slate)
    # Only position 0 takes two steps, so one choice lies between two steps.
    ((_, _, logits),) = [entry for entry in gate.revised if entry[:2] == (0, 1)]
    targets = soft_targets(gains[:, 0], logits > MASKED / 2, imitation.temperature(1))
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    loss = imitation.step_loss(gate, decoded.reasoned, gains)
    torch.testing.assert_close(loss, expected)


def test_random_gates_take_no_step_every_step_and_a_part_of_them():
    lists = random_lists([6] * 8)
    imitation, policy = pieces(lists)
    batch = Batch(lists, np.arange(8))
    encoded = policy.generator.encode(batch.numbers, batch.tokens, batch.mask)
    torch.manual_seed(0)
    shares = []
    for _ in range(30):
        decoded = policy.decode(
            encoded, lambda _, logits: logits.argmax(1), imitation.gate(encoded)
        )
        shares.append(float(decoded.steps.float().mean()) / 2)
    assert 4 < shares.count(0.0) < 18
    assert 4 < shares.count(1.0) < 18
    assert len([share for share in shares if 0 < share < 1]) > 4


def test_half_of_the_prefixes_are_the_teachers_and_half_the_generators(monkeypatch):
    lists = random_lists([6] * 200)
    for share in (0.0, 0.5, 1.0):
        imitation, policy = pieces(lists, on_policy=share)
        slates: list[Decoded] = []
        decode = policy.decode

        def recorded(*arguments, decode=decode, slates=slates, **options):
            slates.append(decode(*arguments, **options))
            return slates[-1]

        monkeypatch.setattr(policy, "decode", recorded)
        torch.manual_seed(0)
        imitation.loss(Batch(lists, np.arange(200)))
        follows = (slates[-1].slate == imitation.slates).all(dim=1).float().mean()
        # The generator, untrained, draws the teacher's slate by chance one time in about 100.
        assert abs(float(follows) - (1 - share)) < 0.1


class PermutedObjective(Objective):
    """An objective whose candidates change places at random, so that it says nothing."""

    def of(self, batch):
        order = torch.argsort(torch.rand(batch.mask.shape), dim=1)
        changed = Batch.__new__(Batch)
        changed.mask = batch.mask
        changed.numbers, changed.tokens = (
            torch.stack([rows[places] for rows, places in zip(table, order, strict=True)])
            for table in (batch.numbers, batch.tokens)
        )
        return super().of(changed)


def regret(policy, lists, objective):
    """Return the mean regret of greedy slates to the greedy teacher."""
    of_lists = objective.of(Batch(lists, slice(None)))
    slates = torch.cat([d.slate for d in policy.greedy_slates(lists, 2)])
    best = of_lists.value(search_beams(of_lists, 1).unsqueeze(1))
    return float((1 - of_lists.value(slates.unsqueeze(1)) / best).mean())


def test_the_stage_lowers_the_regret_to_its_teacher_and_a_permuted_teacher_teaches_nothing():
    lists, held_out = random_lists([8] * 256), random_lists([8] * 256, seed=1)
    after = {}
    for name, objective_type in (("real", Objective), ("permuted", PermutedObjective)):
        torch.manual_seed(0)
        imitation, policy = pieces(lists, objective_type)
        truth = objective_of(policy.config)
        before = regret(policy, held_out, truth)
        optimizer = torch.optim.Adam(policy.generator.parameters(), lr=1e-2)
        for step in range(80):
            batch = Batch(lists, np.arange(64) + 64 * (step % 4))
            optimizer.zero_grad()
            policy.generator.train()
            imitation.loss(batch).backward()
            optimizer.step()
        after[name] = regret(policy, held_out, truth)
    random_order = before  # of random weights
    assert after["real"] < 0.05
    assert after["permuted"] > 0.15
    assert random_order > 0.15


def searching(**search) -> Config:
    objectives = {"utility": 0.5, "terms": [ALPHA_DCG]}
    payload = SMOKE.to_json() | {"objectives": objectives, "selection": "objective"}
    return Config.from_json(json.loads(json.dumps(payload | {"search": {"epochs": 2} | search})))


def test_a_run_learns_from_search_in_place_of_grpo_or_before_it(warm_ranklens, tmp_path):
    data = Dataset(warm_ranklens)
    state = train(searching(), data, tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    assert stages == ["evaluator", "warm_start", "search"]
    assert state.validation["final"]["objective"] > state.validation["warm_start"]["objective"]
    assert checkpoint.load(tmp_path / "run").threshold > 0
    both = searching(followed_by_grpo=True)
    state = train(both, data, tmp_path / "both", tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    assert stages == ["warm_start", "search", "grpo"]


def test_a_search_stage_that_is_interrupted_resumes_to_the_same_weights(
    warm_ranklens, tmp_path, monkeypatch
):
    data = Dataset(warm_ranklens)
    train(searching(), data, tmp_path / "whole")
    run = Run(searching(), data, tmp_path / "parts", None)
    save = run._save

    def save_once(*arguments):
        save(*arguments)
        if run.state.stage == "search" and run.state.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "_save", save_once)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    teacher = list((tmp_path / "parts" / "teacher").iterdir())
    assert len(teacher) == 1
    train(searching(), data, tmp_path / "parts")
    whole, parts = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    other = dataclasses.replace(searching(), seed=1)
    train(other, data, tmp_path / "other")
    assert any(not torch.equal(whole[n], t) for n, t in tensors_of(tmp_path / "other").items())
