"""The evaluator looks at order, and GRPO's arithmetic is that of a case worked by hand."""

import math

import pytest
import torch

from model.learning.grpo import advantages, grpo_loss, imitation_loss
from model.network.config import NetworkConfig
from model.network.evaluator import Evaluator, discount


def make_evaluator(**network) -> Evaluator:
    torch.manual_seed(0)
    config = NetworkConfig(width=16, heads=2, dropout=0.0, **network)
    evaluator = Evaluator(config, 6, 20, 10).eval()
    with torch.no_grad():
        for parameter in evaluator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return evaluator


def test_shuffling_a_slate_changes_its_utility():
    evaluator = make_evaluator()
    embedded = evaluator.embed(torch.randn(1, 8, 6), torch.zeros(1, 8, 2, dtype=torch.int64))
    slates = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]])
    utility = evaluator.utility(embedded.expand(2, -1, -1), slates)
    assert abs((utility[0] - utility[1]).item()) > 1e-4


def test_a_shuffled_slate_changes_more_than_the_discount():
    # The per-position likes themselves move, not only their weights.
    evaluator = make_evaluator()
    items = torch.randn(1, 4, 16)
    mask = torch.ones(1, 4, dtype=torch.bool)
    order = torch.tensor([2, 0, 3, 1])
    straight, shuffled = evaluator(items, mask)[0], evaluator(items[:, order], mask)[0]
    assert (straight[order] - shuffled).abs().max() > 1e-3


def test_a_recurrent_channel_alone_sees_what_came_before_and_not_what_comes_after():
    items, mask = torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool)
    other = items.clone()
    other[0, 2] += 1.0
    alone = make_evaluator(recurrent=True, encoder_blocks=0)
    moved = (alone(items, mask) - alone(other, mask)).abs()[0]
    assert (moved[:2] < 1e-6).all()
    assert (moved[2:] > 1e-4).all()
    attentive = make_evaluator(recurrent=True)
    assert ((attentive(items, mask) - attentive(other, mask)).abs()[0] > 1e-5).all()


@pytest.mark.parametrize("network", [{}, {"recurrent": True}])
def test_empty_positions_count_for_nothing(network):
    evaluator = make_evaluator(**network)
    embedded = torch.randn(1, 8, 16)
    short = evaluator.utility(embedded, torch.tensor([[4, 2]]))
    padded = evaluator.utility(embedded, torch.tensor([[4, 2, -1, -1]]))
    torch.testing.assert_close(short, padded, rtol=0, atol=1e-6)


def test_the_discount_is_that_of_dcg():
    torch.testing.assert_close(discount(3), torch.tensor([1.0, 0.63093, 0.5]), rtol=0, atol=1e-5)


def test_advantages_by_hand():
    # (1, 3): mean 2, deviation 1 -> (-1, 1). A flat group tells nothing -> zeros.
    found = advantages(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]), rtol=0, atol=1e-5)


def hand_case(shift: float = 0.0) -> float:
    """Two slates of two positions; the second slate has one item only."""
    sampled = torch.log(torch.tensor([[0.5, 0.4], [0.5, 1.0]]))
    now = torch.log(torch.tensor([[0.75, 0.4], [0.3 + shift, 1.0]]))
    reference = torch.log(torch.tensor([[0.75, 0.2], [0.3, 1.0]]))
    alive = torch.tensor([[True, True], [True, False]])
    return float(grpo_loss(now, sampled, reference, torch.tensor([1.0, -1.0]), alive, 0.2, 0.1))


def test_grpo_loss_of_a_case_worked_by_hand():
    # Ratios 1.5, 1, 0.6. Gains: min(1.5, 1.2) = 1.2; 1; min(-0.6, -0.8) = -0.8.
    # Divergences: 0; 0.5 - ln 0.5 - 1 = 0.193147; 0. Three choices are alive.
    expected = -((1.2 + 1.0 - 0.8) - 0.1 * (0.5 - math.log(0.5) - 1.0)) / 3
    assert abs(hand_case() - expected) < 1e-6


def test_grpo_loss_of_the_hand_case_moves_with_its_inputs():
    assert abs(hand_case(shift=0.2) - hand_case()) > 1e-3


def test_grpo_gradient_raises_good_choices_and_lowers_bad_ones():
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


def test_imitation_is_of_the_best_slate_of_each_group_that_differs():
    # Group 1: slate 1 is best, items at .5 and .25. Group 2 is flat. Mean of -ln over two items.
    logprob = torch.log(torch.tensor([[[0.9, 0.9], [0.5, 0.25]], [[0.1, 0.1], [0.1, 0.1]]]))
    advantage = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    alive = torch.ones(2, 2, 2, dtype=torch.bool)
    found = imitation_loss(logprob, advantage, alive)
    assert float(found) == pytest.approx((math.log(2) + math.log(4)) / 2)
    alive[0, 1, 1] = False
    assert float(imitation_loss(logprob, advantage, alive)) == pytest.approx(math.log(2))
    assert float(imitation_loss(logprob, -advantage, alive)) == pytest.approx(-math.log(0.9))
    assert float(imitation_loss(logprob, 0 * advantage, alive)) == 0.0
