"""Stored weights are restored into the same network only."""

import pytest
import torch
from torch import nn

from model.learning import checkpoint
from model.network.hosts import TransformerHost


def test_weights_are_restored_into_a_network_of_their_shape():
    stored = checkpoint.collect(nn.Linear(3, 2), "generator.")
    other = nn.Linear(3, 2)
    checkpoint.restore(other, stored, "generator.")
    assert torch.equal(other.weight, stored["generator.weight"])


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.GRUCell(3, 2)])
def test_weights_of_another_network_are_refused_by_name_in_one_line(other):
    stored = checkpoint.collect(nn.Linear(3, 2), "generator.")
    with pytest.raises(
        checkpoint.CheckpointError, match=r"another network.*(weight|bias)"
    ) as error:
        checkpoint.restore(other, stored, "generator.")
    assert "\n" not in str(error.value)


def test_a_transformer_host_loads_the_tensor_names_of_the_first_version():
    torch.manual_seed(0)
    stored = checkpoint.collect(TransformerHost(8, 2, 0.0), "generator.")
    old = {name.replace(".self_attention.", ".own."): value for name, value in stored.items()}
    assert old.keys() != stored.keys()
    host = TransformerHost(8, 2, 0.0)
    checkpoint.restore(host, old, "generator.")
    restored = checkpoint.collect(host, "generator.")
    assert all(torch.equal(restored[name], value) for name, value in stored.items())
