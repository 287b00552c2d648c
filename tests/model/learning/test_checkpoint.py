"""Weights go back only into the network that they are of."""

import pytest
import torch
from torch import nn

from model.learning import checkpoint


def test_weights_go_back_into_a_network_of_their_shape():
    stored = checkpoint.collect(nn.Linear(3, 2), "generator.")
    other = nn.Linear(3, 2)
    checkpoint.restore(other, stored, "generator.")
    assert torch.equal(other.weight, stored["generator.weight"])


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.GRUCell(3, 2)])
def test_weights_of_another_network_are_refused_in_one_line_that_names_them(other):
    stored = checkpoint.collect(nn.Linear(3, 2), "generator.")
    with pytest.raises(checkpoint.CheckpointError, match=r"another network.*(weight|bias)") as told:
        checkpoint.restore(other, stored, "generator.")
    assert "\n" not in str(told.value)
