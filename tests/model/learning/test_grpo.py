"""The losses of GRPO equal values that were computed by hand."""

import math

import pytest
import torch

from model.learning.grpo import advantages, grpo_loss, imitation_loss


def test_advantages_are_standardised_and_zero_in_a_flat_group():
    # (1, 3): mean 2, deviation 1 -> (-1, 1). A flat group has no preference -> zeros.
    values = advantages(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    torch.testing.assert_close(values, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]), rtol=0, atol=1e-5)


def hand_case(shift: float = 0.0) -> float:
    """Return the loss of two slates of two positions, the second with one item only."""
    sampled = torch.log(torch.tensor([[0.5, 0.4], [0.5, 1.0]]))
    now = torch.log(torch.tensor([[0.75, 0.4], [0.3 + shift, 1.0]]))
    reference = torch.log(torch.tensor([[0.75, 0.2], [0.3, 1.0]]))
    alive = torch.tensor([[True, True], [True, False]])
    return float(grpo_loss(now, sampled, reference, torch.tensor([1.0, -1.0]), alive, 0.2, 0.1))


def test_grpo_loss_equals_a_value_computed_by_hand():
    # Ratios 1.5, 1, 0.6. Gains: min(1.5, 1.2) = 1.2; 1; min(-0.6, -0.8) = -0.8.
    # Divergences: 0; 0.5 - ln 0.5 - 1 = 0.193147; 0. Three choices are alive.
    expected = -((1.2 + 1.0 - 0.8) - 0.1 * (0.5 - math.log(0.5) - 1.0)) / 3
    assert abs(hand_case() - expected) < 1e-6


def test_grpo_loss_depends_on_the_current_log_probabilities():
    assert abs(hand_case(shift=0.2) - hand_case()) > 1e-3


def test_the_gradient_raises_choices_of_positive_advantage_and_lowers_the_others():
    logprob = torch.log(torch.tensor([[0.5], [0.5]])).requires_grad_()
    loss = grpo_loss(
        logprob,
        logprob.detach(),
        logprob.detach(),
        torch.tensor([1.0, -1.0]),
        torch.ones(2, 1, dtype=torch.bool),
        0.2,
        0.0,
    )
    loss.backward()
    # d/dlogp of -(ratio * A) / 2 at ratio 1 is -A / 2.
    torch.testing.assert_close(logprob.grad, torch.tensor([[-0.5], [0.5]]))


def test_imitation_follows_the_best_slate_of_each_group_with_spread():
    # Group 1: slate 1 is best, items at .5 and .25. Group 2 is flat. Mean of -ln over two items.
    logprob = torch.log(torch.tensor([[[0.9, 0.9], [0.5, 0.25]], [[0.1, 0.1], [0.1, 0.1]]]))
    advantage = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    alive = torch.ones(2, 2, 2, dtype=torch.bool)
    loss = imitation_loss(logprob, advantage, alive)
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 2)
    alive[0, 1, 1] = False
    assert float(imitation_loss(logprob, advantage, alive)) == pytest.approx(math.log(2))
    assert float(imitation_loss(logprob, -advantage, alive)) == pytest.approx(-math.log(0.9))
    assert float(imitation_loss(logprob, 0 * advantage, alive)) == 0.0
