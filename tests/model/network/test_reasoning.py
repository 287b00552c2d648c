"""The reasoning loop under every host: per row, replayable, and without effect when off."""

import pytest
import torch

from model.network.config import ReasoningConfig
from model.network.generator import Generator, entropy
from model.network.layers import MASKED
from model.network.reasoning import follow, sampler
from tests.support import generators
from tests.support.generators import VOCABULARY, F, K, S, make_generator, make_inputs, run

pytestmark = pytest.mark.usefixtures("network")  # every host


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
        Generator(generators.NETWORK, F, VOCABULARY, K, ReasoningConfig(budget=S)).eval(),
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


def test_slates_do_not_repeat_and_short_lists_end_in_minus_one():
    generator, (numbers, tokens, mask) = make_generator(), make_inputs()
    mask[1, 2:] = False
    slate = run(generator, (numbers, tokens, mask)).slate
    assert sorted(slate[1].tolist()) == [-1, -1, -1, 0, 1]
    for row in slate[[0, 2, 3]]:
        assert len(set(row.tolist())) == K
        assert row.min() >= 0


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
