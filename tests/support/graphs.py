"""Composed graphs of small random generators, random feeds, and the torch loop on them."""

import functools

import numpy as np
import onnx.inliner
import onnxruntime
import torch

from export.graph.compose import compose
from export.graph.intent import with_intent
from model.network.config import NetworkConfig, ReasoningConfig
from model.network.generator import Generator
from model.network.intent import IntentTensors
from model.network.reasoning import ConstraintTensors, EntropyGate, decode, noisy_argmax
from service.engine import constraints
from service.engine.collate import intent_inputs
from service.engine.contract import OLD_CONTRACT, OUTPUTS, inputs_of
from service.engine.intent import DiversityTerm, build_intent

K, S, F, T, V = 4, 2, 7, 3, 50
OF_ITEMS, OF_REQUEST = [1, 4, 5], [0, 2, 3, 6]  # columns of the numbers
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


class FoldingSession:
    """A graph that is fed with whole numbers and tokens, which it folds into item rows first."""

    def __init__(self, model, embedding, threads=1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, disabled_optimizers=["SkipLayerNormFusion"]
        )
        self._embedding = embedding

    def run(self, names, feeds):
        with torch.no_grad():
            weight = self._embedding.project.weight[:, OF_ITEMS]
            numbers = torch.from_numpy(feeds["numbers"])[..., OF_ITEMS]
            rows = numbers @ weight.T
            rows += self._embedding.table(torch.from_numpy(feeds["tokens"])).sum(2)
        others = {name: array for name, array in feeds.items() if name != "tokens"}
        folded = {"rows": rows.numpy(), "numbers": feeds["numbers"][..., OF_REQUEST]}
        return self._session.run(names, others | folded)


class Sessions(dict):
    """Sessions of the forms of a graph, each opened when it is first used."""

    def __init__(self, models, embedding):
        self._models, self._embedding = models, embedding

    def __missing__(self, form):
        self[form] = FoldingSession(self._models[form], self._embedding)
        return self[form]


@functools.cache
def build(host, seed=0, budget=S):
    """Return a generator, and sessions and models of its two forms without and with intent."""
    torch.manual_seed(seed)
    network = NetworkConfig(host=host, width=16, heads=1 + seed % 2)  # both are lowered
    generator = shake(Generator(network, F, V, K, ReasoningConfig(budget=budget)), seed)
    models = {form: compose(generator, OF_REQUEST, K, gated=form == "gated") for form in FORMS}
    models |= {f"{form}, intent": with_intent(models[form]) for form in FORMS}
    return generator, Sessions(models, generator.embed), models


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
    inputs = inputs_of(OLD_CONTRACT)[0]
    return {name: feeds[name].astype(inputs[name][0]) for name in inputs}, resolved


def random_intents(seed, feeds):
    """Return random intents of the lists of feeds, None for some, and the inputs that they give."""
    draw = np.random.default_rng(seed)
    intents = []
    for size in feeds["mask"].sum(axis=1).tolist():
        words = [int(draw.integers(1, 7)) for _ in range(draw.integers(0, 4))]
        terms = [
            DiversityTerm(
                "by", float(draw.choice([0.0, 0.5, 10.0])), float(draw.uniform(0.01, 0.99)),
                "sum" if draw.random() < 0.5 else "mean",
            )
            for _ in words
        ]  # fmt: skip
        values_of = [
            [np.flatnonzero(draw.random(count) < 0.4).tolist() for _ in range(size)]
            for count in words
        ]
        boosts = draw.uniform(-10, 10, size).astype(np.float32) * (draw.random() < 0.5)
        intents.append(build_intent(terms, values_of, boosts) if draw.random() < 0.8 else None)
    return intents, intent_inputs(intents, feeds)


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
            intent=IntentTensors.begin(t) if "boost" in t else None,
        )  # fmt: skip
    columns = (decoded.slate, decoded.logprob, decoded.entropy_before, decoded.entropy_after)
    return [column.numpy() for column in (*columns, decoded.steps)]


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
