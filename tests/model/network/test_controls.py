"""Controls spend the steps they are given, where they say; ablations change what they name."""

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


def policy(share=0.4, threshold=-1.0, **reasoning):
    config = dataclasses.replace(
        CONFIG, reasoning=dataclasses.replace(CONFIG.reasoning, **reasoning)
    )
    torch.manual_seed(0)
    generator = Generator(config.network, 6, 20, K, config.reasoning).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Policy(config, generator, threshold, share)


def encoded(policy, rows=64):
    torch.manual_seed(1)
    mask = torch.ones(rows, N, dtype=torch.bool)
    tokens = torch.randint(0, 20, (rows, N, 3))
    return policy.generator.encode(torch.randn(rows, N, 6), tokens, mask)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("always", [2, 2, 2, 2, 2]), ("middle", [0, 2, 2, 2, 0]), ("first", [6, 0, 0, 0, 0])],
)
def test_planned_controls_put_their_steps_where_they_say(name, expected):
    # A share of .6 of 5 x 2 steps is 6, or 3 positions of 2.
    assert planned_steps(name, K, S, 0.6) == expected
    own = policy(share=0.6, gate=name)
    steps = own.decode(encoded(own), greedy, S).steps
    assert steps.tolist() == [expected] * 64


def test_the_random_gate_takes_its_share_of_steps_somewhere_else_for_every_row():
    own = policy(share=0.4, gate="random")
    steps = own.decode(encoded(own, rows=512), greedy, S).steps
    assert set(steps.unique().tolist()) == {0, S}
    assert steps.float().mean() / S == pytest.approx(0.4, abs=0.05)
    assert len({tuple(row) for row in steps.tolist()}) > 10
    other = policy(share=0.8, gate="random").decode(encoded(own, rows=512), greedy, S).steps
    assert other.float().mean() / S != pytest.approx(0.4, abs=0.05)


def test_budget_0_turns_every_control_off():
    for name in ("always", "random", "middle", "first"):
        own = policy(gate=name)
        assert not own.decode(encoded(own), greedy, 0).steps.any()


def test_the_normalised_gate_reads_the_share_of_the_most_entropy():
    available = torch.tensor([[True] * 4, [True, True, False, False], [True] + [False] * 3])
    entropy = torch.tensor([4.0, 2.0, 1.0]).log() / torch.tensor([2.0, 1.0, 1.0])
    choice = Choice(available, torch.zeros(3, 4), entropy, ())
    assert normalised_entropy(choice) == pytest.approx([0.5, 1.0, 0.0])
    gate = EntropyGate(torch.full((3,), 0.6), torch.full((3,), 1), normalised=True)
    assert gate(0, 0, choice).tolist() == [False, True, False]
    plain = EntropyGate(torch.full((3,), 0.6), torch.full((3,), 1))
    assert plain(0, 0, choice).tolist() == [True, True, False]


@pytest.mark.parametrize("token", ["learned", "zero"])
def test_a_pause_token_tells_nothing_of_the_candidates(token):
    """Its gradient in the aggregate's weights is zero; the aggregate's own is not."""

    def gradient(**reasoning):
        own = policy(**reasoning)
        own.decode(encoded(own), greedy, S).logprob.sum().backward()
        return own.generator.reason_token.weight.grad

    paused = gradient(token=token)
    assert paused is None or not paused.any()
    assert gradient().any()


def test_a_stopped_gradient_does_not_change_slates_and_does_change_gradients():
    def gradients(**reasoning):
        own = policy(**reasoning)
        decoded = own.decode(encoded(own), greedy, S)
        decoded.logprob.sum().backward()
        return decoded.slate, own.generator.embed.project.weight.grad

    (slate, through), (same, stopped) = gradients(), gradients(stop_gradient=True)
    assert torch.equal(slate, same)
    assert not torch.allclose(through, stopped)


def test_a_sample_of_a_control_is_replayed_as_it_was():
    own = policy(share=0.5, gate="random")
    seen = encoded(own)
    sample = own.decode(seen, greedy, S)
    again = own.decode(seen, follow(sample.slate), Replay(sample.reasoned))
    assert torch.equal(again.logprob, sample.logprob)
    redrawn = own.decode(seen, follow(sample.slate), control_gate("random", K, S, 0.5))
    assert not torch.equal(redrawn.logprob, sample.logprob)


@pytest.mark.parametrize(
    ("field", "value"), [("gate", "lucky"), ("token", "thought"), ("training_gate", "never")]
)
def test_an_unknown_gate_or_token_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"reasoning\.{field}: must be .*, got '{value}'"):
        Config.from_json({"reasoning": {field: value}})


def test_random_budgets_are_drawn_while_learning_and_not_to_rank():
    own = policy(random_budget=True)
    steps = own.decode(encoded(own, rows=256), greedy, S, learning=True).steps
    assert set(steps[:, 0].tolist()) == {0, 1, 2}
    assert (own.decode(encoded(own), greedy, S).steps == S).all()


def test_a_gate_for_training_takes_every_step_to_learn_and_the_entropy_gates_to_rank():
    own = policy(training_gate="always", threshold=2.0)
    learning = own.decode(encoded(own), greedy, S, learning=True).steps
    ranking = own.decode(encoded(own), greedy, S).steps
    assert (learning == S).all()
    assert 0 < ranking.float().mean() < S
    assert (own.decode(encoded(own), greedy, 0, learning=True).steps == 0).all()


def test_deep_supervision_teaches_the_choice_before_reasoning_too():
    def loss(share):
        own = policy(deep_supervision=share)
        torch.manual_seed(3)
        labels = (torch.rand(32, N) < 0.3).float()
        numbers, tokens = torch.randn(32, N, 6), torch.randint(0, 20, (32, N, 3))
        mask = torch.ones(32, N, dtype=torch.bool)
        batch = SimpleNamespace(numbers=numbers, tokens=tokens, mask=mask, labels=labels)
        torch.manual_seed(4)  # the order that is followed
        return own.supervised_loss(batch, S).item()

    after, before, both = loss(0.0), loss(1.0), loss(0.5)
    assert both == pytest.approx((after + before) / 2, abs=1e-5)
    assert after != pytest.approx(before, abs=1e-3)


def test_a_token_that_replaces_the_hidden_state_is_another_model():
    add, replace = policy(), policy(update="replace")
    seen = encoded(add)
    found = [own.decode(seen, greedy, S).logits for own in (add, replace)]
    assert not torch.allclose(*found)
