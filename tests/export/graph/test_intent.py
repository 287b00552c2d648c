"""Intent in the graphs: the torch loop, both forms and the stated law agree; nothing is a no-op."""

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export.graph.intent import RewriteError, with_intent
from model.network.hosts import HOSTS
from service.engine.contract import INPUTS, INTENT_INPUTS, OUTPUTS
from tests.support.graphs import (
    FORMS,
    NAMES,
    K,
    assert_same,
    build,
    copied_to_the_device,
    decode_torch,
    is_clear,
    random_feeds,
    random_intents,
)

CLOSE = 2e-4  # nats, of adjustments of up to some hundred in float32


@pytest.mark.parametrize("host", sorted(HOSTS))
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), lists=st.integers(1, 6))
def test_torch_and_both_forms_decode_alike_under_any_intent(host, seed, lists):
    generator, sessions, _ = build(host, seed % 2)
    feeds, resolved = random_feeds(seed, lists)
    feeds |= random_intents(seed, feeds)[1]
    assume(is_clear(generator, feeds))
    expected = decode_torch(generator, feeds)
    for form in FORMS:
        outputs = sessions[f"{form}, intent"].run(NAMES, feeds)
        assert_same(outputs, expected)
        for row, row_constraints in enumerate(resolved):
            items = outputs[0][row][: feeds["length"][row]].tolist()
            assert row_constraints is None or row_constraints.violation(items) is None


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_that_ignores_one_input_of_the_intent_departs_from_torch(form):
    generator, sessions, _ = build("pointer")
    for name, neutral in (
        ("boost", 0), ("values", 1), ("member", 1), ("diversity_weight", 0), ("retained", 1)
    ):  # fmt: skip
        departures = 0
        for seed in range(10):
            feeds, _ = random_feeds(seed, 6)
            feeds |= random_intents(seed, feeds)[1]
            ignored = {**feeds, name: np.full_like(feeds[name], neutral)}
            outputs = sessions[f"{form}, intent"].run(NAMES, ignored)
            with np.errstate(all="ignore"):
                try:
                    assert_same(outputs, decode_torch(generator, feeds))
                except AssertionError:
                    departures += 1
        assert departures > 5, name


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), lists=st.integers(1, 6))
def test_weight_0_and_boost_0_give_the_outputs_of_the_graph_without_intent_bit_for_bit(
    form, seed, lists
):
    _, sessions, _ = build("transformer")
    feeds, _ = random_feeds(seed, lists)
    _, inputs = random_intents(seed, feeds)
    silent = {name: 0 * inputs[name] for name in ("boost", "diversity_weight")}
    plain = sessions[form].run(list(OUTPUTS), feeds)
    outputs = sessions[f"{form}, intent"].run(list(OUTPUTS), feeds | inputs | silent)
    for name, one, other in zip(OUTPUTS, plain, outputs, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), lists=st.integers(1, 6))
def test_the_stated_adjustment_is_the_difference_of_the_logits(form, seed, lists):
    _, sessions, _ = build("gru")
    feeds, _ = random_feeds(seed, lists)
    feeds["budget"][:] = 0  # reasoning reads the adjusted logits
    intents, inputs = random_intents(seed, feeds)
    slate, adjusted = sessions[f"{form}, intent"].run(["slate", "logits"], feeds | inputs)
    (plain,) = sessions[form].run(["logits"], feeds | {"pinned": slate})
    for row, intent in enumerate(intents):
        length, size = int(feeds["length"][row]), int(feeds["mask"][row].sum())
        items = slate[row, :length].tolist()
        difference = (adjusted - plain)[row, :length, :size]
        stated = np.zeros_like(difference) if intent is None else intent.adjustment(items)
        free = adjusted[row, :length, :size] > -1e8
        np.testing.assert_allclose(difference[free], stated[free], rtol=1e-4, atol=CLOSE)
        if intent is not None and free[:, 0].any():
            assert not np.allclose((stated + 1e-2)[free], difference[free], rtol=1e-5, atol=CLOSE)


def test_lists_of_a_batch_keep_their_own_intent():
    _, sessions, _ = build("transformer")
    feeds, _ = random_feeds(11, 4)
    intents, inputs = random_intents(11, feeds)
    assert sum(intent is None for intent in intents) not in (0, 4)
    together = sessions["gated, intent"].run(list(OUTPUTS), feeds | inputs)
    plain = sessions["gated"].run(list(OUTPUTS), feeds)
    for row, intent in enumerate(intents):
        same = all(np.array_equal(a[row], b[row]) for a, b in zip(together, plain, strict=True))
        assert same == (intent is None)


@pytest.mark.parametrize("form", FORMS)
def test_several_slates_of_a_list_share_its_values_and_keep_their_own_boosts_and_weights(form):
    generator, sessions, _ = build("gru")
    feeds, _ = random_feeds(1, 2, constrained=False)
    feeds["noise"][:] = 0
    lists = np.array([0, 1, 1, 1])
    _, inputs = random_intents(12, feeds)
    of_lists = ("numbers", "tokens", "mask", "values", "member")
    feeds |= inputs
    many = {name: array if name in of_lists else array[lists] for name, array in feeds.items()}
    many["diversity_weight"] = many["diversity_weight"] * np.array([[1], [0], [1], [3]], np.float32)
    many["list"] = lists
    flat = {**many, **{name: feeds[name][lists] for name in of_lists}, "list": np.arange(4)}
    outputs = sessions[f"{form}, intent"].run(NAMES, many)
    assert_same(outputs, decode_torch(generator, flat))
    assert len({tuple(slate) for slate in outputs[0][1:].tolist()}) == 3


def test_the_graph_of_intent_has_the_contracts_inputs_and_two_more_step_kinds():
    models = build("transformer")[2]
    for form in FORMS:
        model, plain = models[f"{form}, intent"], models[form]
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == [*INPUTS, *INTENT_INPUTS]
        kinds = [node.op_type for node in model.graph.node]
        assert (kinds.count("Adjust"), kinds.count("Keep")) == (K, K - 1)
        assert {f.name for f in model.functions} - {f.name for f in plain.functions} == {
            "Adjust", "Keep"
        }  # fmt: skip
        names = [name for node in model.graph.node for name in node.output]
        assert len(names) == len(set(names))
    assert copied_to_the_device(models["static, intent"]) == []


def test_a_graph_of_another_kind_is_refused():
    model = build("transformer")[2]["gated"]
    for kind, part, message in (
        ("Choose", "Choose", r"Choose and Pick must be among them, got \['Encode'"),
        ("Recommend", "item", "step kind Recommend: must have the input 'item'"),
    ):
        other = onnx.ModelProto.FromString(model.SerializeToString())
        function = next(f for f in other.functions if f.name == kind)
        if part == kind:
            function.name = "Select"
        else:
            function.input[list(function.input).index(part)] = "other"
        with pytest.raises(RewriteError, match=message):
            with_intent(other)
