"""The reasoning loop under every host: per row, replayable, and without effect when off."""

import dataclasses
import sys

import pytest
import torch

from model.network.config import NetworkConfig, ReasoningConfig
from model.network.generator import Generator, entropy
from model.network.hosts import HOSTS
from model.network.layers import MASKED
from model.network.reasoning import EntropyGate, Replay, decode, follow, greedy, sampler

K, S, F, T, VOCABULARY = 5, 2, 6, 3, 20
NETWORK = NetworkConfig(width=16, heads=2, dropout=0.0)


@pytest.fixture(params=sorted(HOSTS), autouse=True)
def network(request, monkeypatch):
    config = dataclasses.replace(NETWORK, host=request.param)
    monkeypatch.setattr(sys.modules[__name__], "NETWORK", config)


def make_generator(budget: int = S, seed: int = 0, **reasoning) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(
        NETWORK, F, VOCABULARY, K, ReasoningConfig(budget=budget, **reasoning)
    ).eval()
    with torch.no_grad():  # far enough from uniform that slates differ
        for parameter in generator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return generator


def make_inputs(rows: int = 4, size: int = 8, seed: int = 1):
    torch.manual_seed(seed)
    mask = torch.ones(rows, size, dtype=torch.bool)
    return torch.randn(rows, size, F), torch.randint(0, VOCABULARY, (rows, size, T)), mask


def run(generator, inputs, threshold=-1.0, budget=S, pick=greedy, replay=None, group=1):
    rows = inputs[0].shape[0] * group
    thresholds = torch.as_tensor(threshold, dtype=torch.float32).expand(rows)
    budgets = torch.as_tensor(budget, dtype=torch.int64).expand(rows)
    gate = EntropyGate(thresholds, budgets) if replay is None else Replay(replay)
    return decode(generator, generator.encode(*inputs), K, pick, 0.7, gate, group)


def test_turning_reasoning_off_gives_the_plain_host_bit_for_bit():
    reasoner, inputs = make_generator(), make_inputs()
    plain = make_generator(budget=0)
    weights = reasoner.state_dict()
    weights["reason_step.weight"] = plain.reason_step.weight.detach()
    plain.load_state_dict(weights)
    off = run(reasoner, inputs, budget=0)
    huge = run(reasoner, inputs, threshold=1e9)
    host = run(plain, inputs, budget=0)
    for result in (off, huge):
        assert torch.equal(result.slate, host.slate)
        assert torch.equal(result.logits, host.logits)
        assert torch.equal(result.logprob, host.logprob)


def test_an_untrained_reasoning_step_does_not_change_the_choice():
    torch.manual_seed(0)
    generator, inputs = (
        Generator(NETWORK, F, VOCABULARY, K, ReasoningConfig(budget=S)).eval(),
        make_inputs(),
    )
    on, off = run(generator, inputs), run(generator, inputs, budget=0)
    assert (on.steps == S).all()
    assert torch.equal(on.logits[:, 0], off.logits[:, 0])  # later positions have read the tokens
    with torch.no_grad():
        generator.refine.bias.add_(torch.randn_like(generator.refine.bias))
    assert not torch.equal(run(generator, inputs).logits[:, 0], off.logits[:, 0])


def test_reasoning_changes_the_logits_of_the_plain_host():
    generator, inputs = make_generator(), make_inputs()
    assert not torch.equal(run(generator, inputs).logits, run(generator, inputs, budget=0).logits)


def test_a_negative_threshold_takes_every_step_and_a_huge_one_none():
    generator, inputs = make_generator(), make_inputs()
    assert (run(generator, inputs, threshold=-1.0).steps == S).all()
    assert (run(generator, inputs, threshold=1e9).steps == 0).all()


def test_the_gate_opens_exactly_where_entropy_exceeds_the_threshold():
    generator, inputs = make_generator(), make_inputs()
    entropies = run(generator, inputs, budget=0).entropy_before
    threshold = float(entropies.detach()[:, 0].sort().values[1:3].mean())  # between two rows
    result = run(generator, inputs, threshold=threshold, budget=1)
    assert torch.equal(result.steps[:, 0], (result.entropy_before[:, 0] > threshold).long())
    assert 0 < int(result.steps[:, 0].sum()) < len(entropies)


def test_budget_and_threshold_are_per_row():
    generator, inputs = make_generator(), make_inputs(rows=2)
    result = run(
        generator, inputs, threshold=torch.tensor([-1.0, -1.0]), budget=torch.tensor([0, S])
    )
    assert result.steps[0].sum() == 0
    assert (result.steps[1] == S).all()


@pytest.mark.parametrize("neighbour", [0, S])
def test_a_neighbour_that_reasons_does_not_change_a_row(neighbour):
    generator, inputs = make_generator(), make_inputs(rows=2)
    alone = run(generator, tuple(x[:1] for x in inputs), threshold=-1.0, budget=1)
    both = run(generator, inputs, threshold=-1.0, budget=torch.tensor([1, neighbour]))
    assert torch.equal(alone.slate[0], both.slate[0])
    torch.testing.assert_close(alone.logprob[0], both.logprob[0], rtol=0, atol=1e-5)


def test_slates_of_one_request_equal_slates_decoded_apart():
    generator, (numbers, tokens, mask) = make_generator(), make_inputs(rows=2)
    mask[1, 6:] = False
    copies = tuple(x.repeat_interleave(3, 0) for x in (numbers, tokens, mask))
    budgets = torch.tensor([0, 1, S, S, 0, 1])
    apart = run(generator, copies, budget=budgets)
    together = run(generator, (numbers, tokens, mask), budget=budgets, group=3)
    assert torch.equal(apart.slate, together.slate)
    assert torch.equal(apart.steps, together.steps)
    torch.testing.assert_close(apart.logprob, together.logprob, rtol=0, atol=1e-5)
    other = run(generator, (numbers, tokens, mask), budget=budgets.flip(0), group=3)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(apart.logprob, other.logprob, rtol=0, atol=1e-5)


def test_slates_do_not_repeat_and_short_lists_end_in_minus_one():
    generator, (numbers, tokens, mask) = make_generator(), make_inputs()
    mask[1, 2:] = False
    slate = run(generator, (numbers, tokens, mask)).slate
    assert sorted(slate[1].tolist()) == [-1, -1, -1, 0, 1]
    for row in slate[[0, 2, 3]]:
        assert len(set(row.tolist())) == K
        assert row.min() >= 0


def test_padding_does_not_change_a_slate():
    generator, (numbers, tokens, mask) = make_generator(), make_inputs(rows=1, size=6)
    short = run(generator, (numbers, tokens, mask))
    padded = (
        torch.cat([numbers, torch.randn(1, 3, F)], 1),
        torch.cat([tokens, torch.ones(1, 3, T, dtype=torch.int64)], 1),
        torch.cat([mask, torch.zeros(1, 3, dtype=torch.bool)], 1),
    )
    long = run(generator, padded)
    assert torch.equal(short.slate, long.slate)
    torch.testing.assert_close(short.logprob, long.logprob, rtol=0, atol=1e-5)


def test_the_slate_does_not_depend_on_the_order_of_the_candidates():
    generator, inputs = make_generator(), make_inputs(rows=1)
    order = torch.randperm(8)
    shuffled = run(generator, tuple(x[:, order] for x in inputs))
    assert torch.equal(run(generator, inputs).slate, order[shuffled.slate])


def test_gradients_reach_the_reasoning_tokens_weights():
    generator, inputs = make_generator(), make_inputs()
    run(generator, inputs).logprob.sum().backward()
    for layer in (generator.reason_token, generator.reason_step):
        gradient = layer.weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
    generator.zero_grad()
    run(generator, inputs, budget=0).logprob.sum().backward()
    assert generator.reason_token.weight.grad is None


def test_replaying_a_sample_gives_its_log_probabilities():
    generator, inputs = make_generator(), make_inputs()
    draw = torch.Generator().manual_seed(3)
    sample = run(generator, inputs, threshold=1.5, pick=sampler(0.7, draw))
    again = run(generator, inputs, threshold=1e9, pick=follow(sample.slate), replay=sample.reasoned)
    assert torch.equal(sample.logprob, again.logprob)
    assert torch.equal(sample.steps, again.steps)


def test_a_replay_with_other_steps_gives_other_log_probabilities():
    generator, inputs = make_generator(), make_inputs()
    sample = run(generator, inputs, threshold=-1.0)
    other = run(generator, inputs, pick=follow(sample.slate), replay=~sample.reasoned)
    assert not torch.equal(sample.logprob, other.logprob)


def test_entropy_equals_values_computed_by_hand():
    # Two equal choices: ln 2. A third, masked, adds nothing. One choice left: 0.
    logits = torch.tensor([[0.0, 0.0, MASKED], [5.0, MASKED, MASKED]])
    expected = torch.tensor([0.693147, 0.0])
    torch.testing.assert_close(entropy(logits), expected, rtol=0, atol=1e-6)
    # p = (3/4, 1/4): -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.562335
    logits = torch.tensor([[3.0, 1.0]]).log()
    torch.testing.assert_close(entropy(logits), torch.tensor([0.562335]), rtol=0, atol=1e-6)
