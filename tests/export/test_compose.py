"""The unrolled graph does what the loop does, for every host."""

import numpy as np
import onnxruntime
import pytest
import torch

from export.compose import compose
from model.config import NetworkConfig, ReasoningConfig
from model.generator import Generator
from model.hosts import HOSTS
from model.reasoning import EntropyGate, decode, greedy

K, S = 4, 2


def test_the_graph_tells_nothing_of_the_machine_that_exported_it(pair):
    assert b".py" not in pair[2]


@pytest.fixture(scope="module", params=sorted(HOSTS))
def pair(request):
    """A generator with weights large enough to decide, and its graph."""
    torch.manual_seed(0)
    network = NetworkConfig(host=request.param, width=16, heads=2)
    generator = Generator(network, 7, 50, K, ReasoningConfig(budget=S)).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    content = compose(generator, 7, 3, K, S, 0.7).SerializeToString()
    return generator, onnxruntime.InferenceSession(content), content


@pytest.mark.parametrize("size", [1, 3, 9])
def test_the_graph_and_the_loop_agree_row_by_row(pair, size):
    generator, session, _ = pair
    torch.manual_seed(size)
    mask = torch.ones(3, size, dtype=torch.bool)
    mask[1, (size + 1) // 2 :] = False
    inputs = (torch.randn(3, size, 7), torch.randint(0, 50, (3, size, 3)), mask)
    knobs = (torch.tensor([-1.0, 1.0, 1e9]), torch.tensor([S, S - 1, S]))
    with torch.no_grad():
        expected = decode(generator, generator.encode(*inputs), K, greedy, 0.7, EntropyGate(*knobs))
    names = ("numbers", "tokens", "mask", "entropy_threshold", "budget")
    tensors = zip(names, (*inputs, *knobs), strict=True)
    slate, logprob, before, after, steps = session.run(
        ["slate", "logprob", "entropy_before", "entropy_after", "steps"],
        {name: tensor.numpy() for name, tensor in tensors},
    )
    np.testing.assert_array_equal(slate, expected.slate)
    np.testing.assert_array_equal(steps, expected.steps)
    for found, wanted in (
        (logprob, expected.logprob),
        (before, expected.entropy_before),
        (after, expected.entropy_after),
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert steps[0].sum() == S * min(K, size)
    assert steps[2].sum() == 0
