"""Composed graphs: valid slates, steps by row, step kinds, refusals and CUDA graph capture."""

import numpy as np
import onnx
import onnx.inliner
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export.graph.compose import compose
from export.graph.lower import ComposeError
from model.network.config import NetworkConfig, ReasoningConfig
from model.network.generator import Generator
from model.network.hosts import HOSTS
from tests.support.graphs import (
    FORMS,
    NAMES,
    F,
    FoldingSession,
    K,
    S,
    V,
    assert_same,
    build,
    copied_to_the_device,
    decode_torch,
    is_clear,
    random_feeds,
)


@pytest.mark.parametrize("host", sorted(HOSTS))
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), lists=st.integers(1, 6))
def test_every_slate_is_valid_and_keeps_its_constraints(host, seed, lists):
    _, sessions, _ = build(host)
    feeds, resolved = random_feeds(seed, lists)
    for form in FORMS:
        slates = sessions[form].run(["slate"], feeds)[0]
        for row, slate in enumerate(slates):
            length = feeds["length"][row]
            items, row_constraints = slate[:length].tolist(), resolved[row]
            assert slate[length:].tolist() == [-1] * (K - length)
            assert len(set(items)) == length
            assert all(0 <= item < feeds["mask"][row].sum() for item in items)
            assert row_constraints is None or row_constraints.violation(items) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), lists=st.integers(2, 6))
def test_neither_padding_nor_batch_neighbours_nor_threads_change_a_slate(seed, lists):
    generator, sessions, models = build("transformer")
    feeds, _ = random_feeds(seed, lists)
    assume(is_clear(generator, feeds))
    together = {form: sessions[form].run(NAMES, feeds) for form in FORMS}
    threaded = FoldingSession(models["gated"], generator.embed, 2).run(NAMES, feeds)
    assert_same(threaded, together["gated"])
    for row in range(lists):
        size = int(feeds["mask"][row].sum())
        alone = {name: array[row : row + 1].copy() for name, array in feeds.items()}
        alone["list"][:] = 0
        for name in ("numbers", "tokens", "mask", "group", "quota"):
            alone[name] = alone[name][:, :size]
        alone["noise"] = alone["noise"][:, :, :size]
        for form in FORMS:
            outputs = sessions[form].run(NAMES, alone)
            assert_same(outputs, [column[row : row + 1] for column in together[form]])


@pytest.mark.parametrize("form", FORMS)
def test_steps_follow_budget_and_threshold_row_by_row(form):
    _, sessions, _ = build("gru")
    feeds, _ = random_feeds(5, 4, constrained=False)
    feeds["entropy_threshold"][:] = [-1, -1, 1e9, -1]
    feeds["budget"][:] = [S, 1, S, 0]
    steps = sessions[form].run(["steps"], feeds)[0]
    assert steps.sum(axis=1).tolist() == [S * feeds["length"][0], feeds["length"][1], 0, 0]


def test_several_slates_of_a_list_share_its_encoding_and_keep_their_own_noise():
    generator, sessions, _ = build("transformer")
    feeds, _ = random_feeds(1, 2, constrained=False)
    assert feeds["mask"][1].sum() >= 6
    draw = np.random.default_rng(0)
    many = {name: feeds[name] for name in ("numbers", "tokens", "mask")}
    lists = np.array([0, 1, 1, 1])
    many |= {name: feeds[name][lists] for name in feeds if name not in many}
    many["noise"] = draw.gumbel(size=many["noise"].shape).astype(np.float32)
    many["list"] = lists
    flat = many | {name: feeds[name][lists] for name in ("numbers", "tokens", "mask")}
    assert_same(
        sessions["gated"].run(NAMES, many), decode_torch(generator, flat | {"list": np.arange(4)})
    )
    assert len({tuple(s) for s in sessions["gated"].run(["slate"], many)[0][1:].tolist()}) > 1


def test_the_graph_consists_of_step_kinds_with_shared_weights_and_holds_no_source_path():
    _, _, models = build("transformer")
    for form in FORMS:
        model = models[form]
        onnx.checker.check_model(model, full_check=True)
        assert {f.name for f in model.functions} == {
            "Encode", "Start", "Choose", "Pick", "Reason", "Recommend"
        }  # fmt: skip
        branches = [node for node in model.graph.node if node.op_type == "If"]
        assert len(branches) == (K if form == "gated" else 0)
        names = [weight.name for weight in model.graph.initializer]
        assert len(names) == len(set(names))
        assert b".py" not in model.SerializeToString()


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_in_the_static_form_keeps_a_cuda_graph_from_being_captured(host):
    model = build(host)[2]["static"]
    assert copied_to_the_device(model) == []
    broken = onnx.ModelProto.FromString(model.SerializeToString())
    size = onnx.helper.make_node("Shape", ["mask"], ["size"], start=1, end=2)
    times = onnx.helper.make_node("Mul", ["list", "size"], ["offset"])
    broken.graph.node.extend([size, times])
    assert copied_to_the_device(broken) == ["Mul"]


@pytest.mark.parametrize("field", [{"token": "zero"}, {"update": "replace"}])
def test_a_control_is_not_composed(field):
    generator = Generator(NetworkConfig(width=16, heads=2), F, V, K, ReasoningConfig(**field))
    with pytest.raises(ComposeError, match=rf"reasoning\.{next(iter(field))}: only"):
        compose(generator, range(F), K, gated=True)


def test_a_plain_host_has_no_reasoning_in_its_graph():
    generator, sessions, models = build("transformer", budget=0)
    feeds, _ = random_feeds(4, 3)
    assert_same(
        sessions["static"].run(NAMES, feeds),
        decode_torch(generator, {**feeds, "budget": feeds["budget"] * 0}),
    )
    assert "Reason" not in {f.name for f in models["gated"].functions}
