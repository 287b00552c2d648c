"""The utility of a slate depends on the order of its items."""

import pytest
import torch

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


def test_shuffling_a_slate_changes_the_like_logits_of_its_items():
    # The like-logits change with the order, not only the weights of their positions.
    evaluator = make_evaluator()
    items = torch.randn(1, 4, 16)
    mask = torch.ones(1, 4, dtype=torch.bool)
    order = torch.tensor([2, 0, 3, 1])
    straight, shuffled = evaluator(items, mask)[0], evaluator(items[:, order], mask)[0]
    assert (straight[order] - shuffled).abs().max() > 1e-3


def test_a_recurrent_layer_alone_reads_earlier_items_and_not_later_ones():
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
def test_empty_positions_do_not_change_the_utility(network):
    evaluator = make_evaluator(**network)
    embedded = torch.randn(1, 8, 16)
    short = evaluator.utility(embedded, torch.tensor([[4, 2]]))
    padded = evaluator.utility(embedded, torch.tensor([[4, 2, -1, -1]]))
    torch.testing.assert_close(short, padded, rtol=0, atol=1e-6)


def test_the_discount_is_that_of_dcg():
    torch.testing.assert_close(discount(3), torch.tensor([1.0, 0.63093, 0.5]), rtol=0, atol=1e-5)
