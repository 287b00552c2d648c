"""The lowering of every host and of the evaluator computes what its torch module computes."""

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export.graph.compose import compose, compose_evaluator
from export.graph.lower import LOWERINGS, ComposeError
from model.network.config import NetworkConfig, ReasoningConfig
from model.network.evaluator import Evaluator
from model.network.generator import Generator
from model.network.hosts import HOSTS, PointerHost
from tests.support.graphs import (
    CLOSE,
    FORMS,
    NAMES,
    OF_REQUEST,
    F,
    FoldingSession,
    K,
    T,
    V,
    assert_same,
    build,
    decode_torch,
    is_clear,
    random_feeds,
    shake,
)


@pytest.mark.parametrize("host", sorted(HOSTS))
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), weights=st.integers(0, 2), lists=st.integers(1, 6))
def test_both_forms_and_the_torch_loop_agree_on_random_feeds(host, seed, weights, lists):
    generator, sessions, _ = build(host, weights)
    feeds, _ = random_feeds(seed, lists)
    assume(is_clear(generator, feeds))
    expected = decode_torch(generator, feeds)
    for form in FORMS:
        assert_same(sessions[form].run(NAMES, feeds), expected)


def test_a_weight_that_is_off_by_a_thousandth_makes_the_graph_disagree():
    generator, sessions, _ = build("transformer", 1)
    feeds, _ = random_feeds(3, 4)
    with torch.no_grad():
        generator.host.self_attention.output.weight[0] += 1e-3
    expected = decode_torch(generator, feeds)
    with torch.no_grad():
        generator.host.self_attention.output.weight[0] -= 1e-3
    with pytest.raises(AssertionError):
        assert_same(sessions["gated"].run(NAMES, feeds), expected)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("discounted", [False, True])
def test_the_evaluators_graph_and_module_agree_on_short_and_full_slates(recurrent, discounted):
    torch.manual_seed(1)
    network = NetworkConfig(width=16, heads=2, recurrent=recurrent)
    evaluator = shake(Evaluator(network, F, V, 3, discounted), 0)  # fewer positions than K
    feeds, _ = random_feeds(2, 3)
    slate = np.array([[0, -1, -1, -1], [1, 0, 2, -1], [3, 2, 1, 0], [0, 1, 2, 3]])
    lists = np.array([0, 1, 2, 2])
    feeds["numbers"] = np.resize(feeds["numbers"], (3, 5, F))
    feeds["tokens"] = np.resize(feeds["tokens"], (3, 5, T))
    inputs = {"numbers": feeds["numbers"], "tokens": feeds["tokens"], "list": lists}
    session = FoldingSession(compose_evaluator(evaluator, OF_REQUEST, K), evaluator.embed)
    likes, utility = session.run(["likes", "utility"], {**inputs, "slate": slate})
    with torch.no_grad():
        embedded = evaluator.embed(*map(torch.from_numpy, (feeds["numbers"], feeds["tokens"])))
        expected = evaluator.utility(embedded[lists], torch.from_numpy(slate)).numpy()
    np.testing.assert_allclose(utility, expected, rtol=0, atol=CLOSE)
    assert (likes[slate < 0] == 0).all()
    assert utility[2] != pytest.approx(utility[3], abs=CLOSE)  # the order matters


@pytest.mark.parametrize("name", ["mlp", None])
def test_a_host_without_a_lowering_is_refused_by_its_name(name, monkeypatch):
    class MlpHost(PointerHost):
        """A host of another class; a lowering is of one class and does not pass to others."""

    if name is not None:
        monkeypatch.setitem(HOSTS, name, MlpHost)
    generator = Generator(NetworkConfig(width=16, heads=2), F, V, K, ReasoningConfig())
    generator.host = MlpHost(16, 2, 0.0)
    message = (
        f"host {name or 'MlpHost'}: has no lowering; add it to LOWERINGS in export/graph/lower.py"
    )
    with pytest.raises(ComposeError, match=f"^{re.escape(message)}$"):
        compose(generator, range(F), K, gated=True)


def test_every_host_has_a_lowering():
    assert set(LOWERINGS) == set(HOSTS.values())
