"""Every host: rows do not see each other, and the order of candidates does not matter."""

import pytest
import torch

from model.network.hosts import HOSTS
from tests.support.generators import F, S, T, make_generator, make_inputs, run

pytestmark = pytest.mark.usefixtures("network")  # every host


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


def test_a_token_that_a_row_does_not_read_leaves_no_trace_in_it(network):
    torch.manual_seed(0)
    width, rows = network.width, 2
    host = HOSTS[network.host](width, network.heads, 0.0)
    candidates = torch.randn(rows, 5, width)
    memory = host.memory(candidates, torch.ones(rows, 5, dtype=torch.bool))
    everyone = torch.ones(rows, dtype=torch.bool)
    start, reasoning, other, item = torch.randn(4, rows, width)
    state = host.advance(memory, host.start(candidates, rows), start, everyone)
    one, another = (
        host.advance(memory, state, token, torch.tensor([True, False]))
        for token in (reasoning, other)
    )
    assert torch.equal(one[-1][1], state[-1][1])
    assert not torch.equal(one[-1][0], state[-1][0])
    later = [host.advance(memory, s, item, everyone)[-1] for s in (one, another)]
    assert torch.equal(later[0][1], later[1][1])
    assert not torch.equal(later[0][0], later[1][0])
