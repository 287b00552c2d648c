"""Control gates spend their share of the steps at their positions; ablations have an effect."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from model.learning.policy import Policy
from model.network.config import Config, ConfigError, NetworkConfig, ReasoningConfig
from model.network.controls import control_gate, planned_steps
from model.network.generator import Choice, Generator
from model.network.reasoning import EntropyGate, Replay, follow, greedy, normalised_entropy

K, S, N = 5, 2, 9
CONFIG = Config(
    slate_length=K,
    network=NetworkConfig(width=16, heads=2, dropout=0.0),
    reasoning=ReasoningConfig(budget=S),
)


def make_policy(share=0.4, threshold=-1.0, **reasoning):
    config = dataclasses.replace(
        CONFIG, reasoning=dataclasses.replace(CONFIG.reasoning, **reasoning)
    )
    torch.manual_seed(0)
    generator = Generator(config.network, 6, 20, K, config.reasoning).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Policy(config, generator, threshold, share)


def encode(policy, rows=64):
    torch.manual_seed(1)
    mask = torch.ones(rows, N, dtype=torch.bool)
    tokens = torch.randint(0, 20, (rows, N, 3))
    return policy.generator.encode(torch.randn(rows, N, 6), tokens, mask)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("always", [2, 2, 2, 2, 2]), ("middle", [0, 2, 2, 2, 0]), ("first", [6, 0, 0, 0, 0])],
)
def test_planned_controls_take_their_steps_at_their_positions(name, expected):
    # A share of .6 of 5 x 2 steps is 6, or 3 positions of 2.
    assert planned_steps(name, K, S, 0.6) == expected
    policy = make_policy(share=0.6, gate=name)
    steps = policy.decode(encode(policy), greedy, S).steps
    assert steps.tolist() == [expected] * 64


def test_the_random_gate_takes_its_share_of_steps_at_different_positions_per_row():
    policy = make_policy(share=0.4, gate="random")
    steps = policy.decode(encode(policy, rows=512), greedy, S).steps
    assert set(steps.unique().tolist()) == {0, S}
    assert steps.float().mean() / S == pytest.approx(0.4, abs=0.05)
    assert len({tuple(row) for row in steps.tolist()}) > 10
    other = make_policy(share=0.8, gate="random").decode(encode(policy, rows=512), greedy, S).steps
    assert other.float().mean() / S != pytest.approx(0.4, abs=0.05)


def test_budget_0_turns_every_control_off():
    for name in ("always", "random", "middle", "first"):
        policy = make_policy(gate=name)
        assert not policy.decode(encode(policy), greedy, 0).steps.any()


def test_the_normalised_gate_compares_the_share_of_the_maximum_entropy():
    available = torch.tensor([[True] * 4, [True, True, False, False], [True] + [False] * 3])
    entropy = torch.tensor([4.0, 2.0, 1.0]).log() / torch.tensor([2.0, 1.0, 1.0])
    choice = Choice(available, torch.zeros(3, 4), entropy, ())
    assert normalised_entropy(choice) == pytest.approx([0.5, 1.0, 0.0])
    gate = EntropyGate(torch.full((3,), 0.6), torch.full((3,), 1), normalised=True)
    assert gate(0, 0, choice).tolist() == [False, True, False]
    plain = EntropyGate(torch.full((3,), 0.6), torch.full((3,), 1))
    assert plain(0, 0, choice).tolist() == [True, True, False]


@pytest.mark.parametrize("token", ["learned", "zero"])
def test_a_pause_token_carries_no_information_of_the_candidates(token):
    """The weights that read the aggregate have no gradient, unlike those of the paper's token."""

    def gradient(**reasoning):
        policy = make_policy(**reasoning)
        policy.decode(encode(policy), greedy, S).logprob.sum().backward()
        return policy.generator.reason_token.weight.grad

    paused = gradient(token=token)
    assert paused is None or not paused.any()
    assert gradient().any()


def test_a_stopped_gradient_changes_gradients_and_no_slate():
    def gradients(**reasoning):
        policy = make_policy(**reasoning)
        decoded = policy.decode(encode(policy), greedy, S)
        decoded.logprob.sum().backward()
        return decoded.slate, policy.generator.embed.project.weight.grad

    (slate, through), (same, stopped) = gradients(), gradients(stop_gradient=True)
    assert torch.equal(slate, same)
    assert not torch.allclose(through, stopped)


def test_replaying_a_control_takes_its_steps_again():
    policy = make_policy(share=0.5, gate="random")
    encoded = encode(policy)
    sample = policy.decode(encoded, greedy, S)
    again = policy.decode(encoded, follow(sample.slate), Replay(sample.reasoned))
    assert torch.equal(again.logprob, sample.logprob)
    redrawn = policy.decode(encoded, follow(sample.slate), control_gate("random", K, S, 0.5))
    assert not torch.equal(redrawn.logprob, sample.logprob)


@pytest.mark.parametrize(
    ("field", "value"), [("gate", "lucky"), ("token", "thought"), ("training_gate", "never")]
)
def test_an_unknown_gate_or_token_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"reasoning\.{field}: must be .*, got '{value}'"):
        Config.from_json({"reasoning": {field: value}})


def test_random_budgets_are_drawn_in_training_only():
    policy = make_policy(random_budget=True)
    steps = policy.decode(encode(policy, rows=256), greedy, S, learning=True).steps
    assert set(steps[:, 0].tolist()) == {0, 1, 2}
    assert (policy.decode(encode(policy), greedy, S).steps == S).all()


def test_training_gate_always_takes_every_step_in_training_only():
    policy = make_policy(training_gate="always", threshold=2.0)
    learning = policy.decode(encode(policy), greedy, S, learning=True).steps
    ranking = policy.decode(encode(policy), greedy, S).steps
    assert (learning == S).all()
    assert 0 < ranking.float().mean() < S
    assert (policy.decode(encode(policy), greedy, 0, learning=True).steps == 0).all()


def test_deep_supervision_mixes_the_losses_before_and_after_reasoning():
    def loss(share):
        policy = make_policy(deep_supervision=share)
        torch.manual_seed(3)
        labels = (torch.rand(32, N) < 0.3).float()
        numbers, tokens = torch.randn(32, N, 6), torch.randint(0, 20, (32, N, 3))
        mask = torch.ones(32, N, dtype=torch.bool)
        batch = SimpleNamespace(
            numbers=numbers, tokens=tokens, mask=mask, labels=labels, gains=labels
        )
        torch.manual_seed(4)  # seeds logged_order
        return policy.supervised_loss(batch, S).item()

    after, before, both = loss(0.0), loss(1.0), loss(0.5)
    assert both == pytest.approx((after + before) / 2, abs=1e-5)
    assert after != pytest.approx(before, abs=1e-3)


def test_update_replace_changes_the_logits():
    add, replace = make_policy(), make_policy(update="replace")
    encoded = encode(add)
    added, replaced = (p.decode(encoded, greedy, S).logits for p in (add, replace))
    assert not torch.allclose(added, replaced)
