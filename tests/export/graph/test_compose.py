"""Both forms of the graph agree with the torch loop, for every host and every graph input."""

import functools
import re

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
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
from model.network.reasoning import ConstraintTensors, EntropyGate, decode, noisy_argmax
from service.engine import constraints
from service.engine.contract import INPUTS, OUTPUTS

K, S, F, T, V = 4, 2, 7, 3, 50
NAMES = list(OUTPUTS)[:5]
FORMS = ("gated", "static")
CLOSE = 2e-5


def shake(module, seed):
    """Add noise to the weights, large enough that they decide choices."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return module.eval()


def open_model(model, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, disabled_optimizers=["SkipLayerNormFusion"]
    )


@functools.cache
def build(host, seed=0, budget=S):
    """Return a generator, the sessions of its two forms and their models."""
    torch.manual_seed(seed)
    network = NetworkConfig(host=host, width=16, heads=1 + seed % 2)  # both are lowered
    generator = shake(Generator(network, F, V, K, ReasoningConfig(budget=budget)), seed)
    models = {form: compose(generator, F, T, K, gated=form == "gated") for form in FORMS}
    return generator, {form: open_model(model) for form, model in models.items()}, models


def random_feeds(seed, lists, constrained=True):
    """Return feeds of random lists, one slate each, and the constraints of each, or None."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 13, lists)
    longest = int(sizes.max())
    feeds = {
        "numbers": draw.standard_normal((lists, longest, F)).astype(np.float32),
        "tokens": draw.integers(0, V, (lists, longest, T)),
        "mask": np.arange(longest) < sizes[:, None],
        "list": np.arange(lists),
        "length": np.minimum(sizes, K),
        "budget": draw.integers(0, S + 1, lists),
        "entropy_threshold": draw.choice([-1.0, 0.7, 1.5, 1e9], lists).astype(np.float32),
        "reason_temperature": draw.uniform(0.5, 3, lists).astype(np.float32),
        "recommend_temperature": draw.uniform(0.3, 2, lists).astype(np.float32),
        "noise": np.zeros((lists, K, longest), np.float32),
        "pinned": np.full((lists, K), -1),
        "group": np.tile(np.arange(longest), (lists, 1)),
        "quota": (np.arange(longest) < sizes[:, None]).astype(np.float32),
    }
    resolved: list[constraints.SlateConstraints | None] = [None] * lists
    for row, size in enumerate(sizes):
        if draw.random() < 0.5:
            feeds["noise"][row, :, :size] = draw.gumbel(size=(K, size))
        ids = [str(i) for i in range(size)]
        pins = {str(draw.integers(size)): int(draw.integers(min(size, K)))}
        limit = ("group", int(draw.integers(1, 4)))
        groups = draw.integers(0, 3, size).tolist()
        blocked = {str(draw.integers(size))} - pins.keys()
        try:
            length, row_constraints = constraints.resolve(
                ids, None, min(size, K), pins, blocked, groups, limit
            )
        except constraints.ConstraintError:
            continue
        if constrained:
            resolved[row] = row_constraints
            feeds["length"][row] = length
            feeds["pinned"][row, :length] = row_constraints.pinned
            feeds["group"][row, :size], feeds["group"][row, size:] = row_constraints.group, -1
            feeds["quota"][row, :size] = row_constraints.quota
    return {name: feeds[name].astype(INPUTS[name][0]) for name in INPUTS}, resolved


def decode_torch(generator, feeds):
    """Return the same outputs from the torch loop."""
    t = {name: torch.from_numpy(array) for name, array in feeds.items()}
    recommend, reason = (t[f"{n}_temperature"].unsqueeze(1) for n in ("recommend", "reason"))
    with torch.no_grad():
        encoded = generator.encode(t["numbers"], t["tokens"], t["mask"])
        decoded = decode(
            generator, encoded, K, noisy_argmax(t["noise"], recommend), recommend,
            EntropyGate(t["entropy_threshold"], t["budget"]),
            constraints=ConstraintTensors(t["length"], t["pinned"], t["group"], t["quota"]),
            reason_temperature=reason,
        )  # fmt: skip
    columns = (decoded.slate, decoded.logprob, decoded.entropy_before, decoded.entropy_after)
    return [column.numpy() for column in (*columns, decoded.steps)]


def is_clear(generator, feeds):
    """Return true if rounding decides nothing: a little noise on the inputs changes no slate."""
    shifted = {**feeds, "numbers": feeds["numbers"] * np.float32(1 + 1e-5)}
    one, other = decode_torch(generator, feeds), decode_torch(generator, shifted)
    return all(np.array_equal(one[i], other[i]) for i in (0, 4))


def assert_same(outputs, expected):
    for name, one, other in zip(NAMES, outputs, expected, strict=True):
        if name in ("slate", "steps"):
            np.testing.assert_array_equal(one, other, err_msg=name)
        else:
            np.testing.assert_allclose(one, other, rtol=0, atol=CLOSE, err_msg=name)


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
    threaded = open_model(models["gated"], threads=2).run(NAMES, feeds)
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
    many |= {name: feeds[name][lists] for name in INPUTS if name not in many}
    many["noise"] = draw.gumbel(size=many["noise"].shape).astype(np.float32)
    many["list"] = lists
    flat = many | {name: feeds[name][lists] for name in ("numbers", "tokens", "mask")}
    assert_same(
        sessions["gated"].run(NAMES, many), decode_torch(generator, flat | {"list": np.arange(4)})
    )
    assert len({tuple(s) for s in sessions["gated"].run(["slate"], many)[0][1:].tolist()}) > 1


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
    session = open_model(compose_evaluator(evaluator, F, T, K))
    likes, utility = session.run(["likes", "utility"], {**inputs, "slate": slate})
    with torch.no_grad():
        embedded = evaluator.embed(*map(torch.from_numpy, (feeds["numbers"], feeds["tokens"])))
        expected = evaluator.utility(embedded[lists], torch.from_numpy(slate)).numpy()
    np.testing.assert_allclose(utility, expected, rtol=0, atol=CLOSE)
    assert (likes[slate < 0] == 0).all()
    assert utility[2] != pytest.approx(utility[3], abs=CLOSE)  # the order matters


def test_the_graph_consists_of_step_kinds_with_shared_weights_and_holds_no_source_path():
    _, _, models = build("transformer")
    for form, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        assert {f.name for f in model.functions} == {
            "Encode", "Start", "Choose", "Pick", "Reason", "Recommend"
        }  # fmt: skip
        branches = [node for node in model.graph.node if node.op_type == "If"]
        assert len(branches) == (K if form == "gated" else 0)
        names = [weight.name for weight in model.graph.initializer]
        assert len(names) == len(set(names))
        assert b".py" not in model.SerializeToString()


SHAPES = {"Expand": [1], "Reshape": [1], "ConstantOfShape": [0]}  # inputs read on the host


def copied_to_the_device(model):
    """Return the kinds of nodes that compute with the output of a Shape.

    That output lies in the host's memory, and a CUDA graph captures no copy from there.
    """
    host, copied = set(), []
    for node in onnx.inliner.inline_local_functions(model).graph.node:
        if node.op_type == "Shape":
            host.update(node.output)
            continue
        read = [i for i, name in enumerate(node.input) if name in host]
        if node.op_type == "Concat" and node.input[0] in host:
            host.update(node.output)  # a shape of several parts
        elif any(i not in SHAPES.get(node.op_type, []) for i in read):
            copied.append(node.op_type)
    return copied


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
        compose(generator, F, T, K, gated=True)


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
        compose(generator, F, T, K, gated=True)


def test_every_host_has_a_lowering():
    assert set(LOWERINGS) == set(HOSTS.values())


def test_a_plain_host_has_no_reasoning_in_its_graph():
    generator, sessions, models = build("transformer", budget=0)
    feeds, _ = random_feeds(4, 3)
    assert_same(
        sessions["static"].run(NAMES, feeds),
        decode_torch(generator, {**feeds, "budget": feeds["budget"] * 0}),
    )
    assert "Reason" not in {f.name for f in models["gated"].functions}
