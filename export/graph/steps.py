"""The step kinds of the reasoning loop, each defined once as an ONNX function.

Axes: R slates, N candidates, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from export.graph.graph import Graph, Values
from export.graph.lower import encode, lowering_of
from model.network.generator import Generator
from model.network.layers import MASKED

LIST_INPUTS = ("rows", "numbers", "mask")


class StepKinds:
    """The step kinds of one generator, which `define` enters into a graph.

    `memory` and `state` name the tensors that a step reads per list and per slate. The keys of the
    other values are explained at export.graph.compose.Loop. `columns` are those of the generator's
    embedding that depend on the request.
    """

    def __init__(self, g: Graph, generator: Generator, columns: Sequence[int]) -> None:
        self.g, self.generator, self.columns = g, generator, columns
        self.host = lowering_of(g, generator.host)
        self.memory = ("keys", "prior", "thoughts", *self.host.memory_parts)
        self.state = tuple(self.host.state_types)

    def define(self, slate_length: int) -> None:
        """Enter the functions Encode, Start, Choose, Pick, Reason and Recommend."""
        g, host_parts = self.g, (*self.host.memory_parts, *self.state)
        g.function("Encode", LIST_INPUTS, self.encode)
        g.function("Start", ("like", "everyone", *self.host.memory_parts), self.start)
        g.function("Choose", ("hidden", "keys", "prior"), self.choose)
        g.function("Pick", ("logits", "scale", "noise", "pinned", "free"), self.pick)
        if self.generator.reasoning.budget:
            read = ("thought", "cool", "active", "thoughts", "hidden", "logits")
            g.function("Reason", (*read, *host_parts), self.reason)
        if slate_length > 1:
            read = ("item", "offset", "place", "items", "everyone", "spent")
            g.function("Recommend", (*read, "group", "quota", "prior", *host_parts), self.recommend)

    def encode(self, rows: str, numbers: str, mask: str) -> Values:
        """Compute everything that depends on the list alone."""
        return encode(self.g, self.generator, self.columns, self.host, rows, numbers, mask)

    def start(self, like: str, **values: str) -> Values:
        """Read the start token; `like` [R] gives the number of slates."""
        g, width = self.g, self.generator.start_token.shape[0]
        rows = g.op("Concat", g.op("Shape", like, end=1), g.constant([width]), axis=0)
        token = g.op("Expand", g.weight("start_token", self.generator.start_token), rows)
        state, hidden = self.host.advance(token, values["everyone"], values, {})
        return {**state, "hidden": g.op("Unsqueeze", hidden, g.constant([1, 2]))}

    def choose(self, hidden: str, keys: str, prior: str) -> Values:
        """Compute logits [R, 1, 1, N] and certainty [R, 1, 1, 1], the negative entropy in nats."""
        g = self.g
        logits = g.op("Add", g.op("MatMul", hidden, keys), prior)
        logprob = g.op("LogSoftmax", logits)
        terms = g.op("Mul", g.op("Exp", logprob), logprob)
        certainty = g.op("ReduceSum", terms, g.constant([3]), keepdims=1)
        return {"logits": logits, "certainty": certainty}

    def reason(self, **values: str) -> Values:
        """Take one reasoning step in the rows that `active` bool [R, 1, 1, 1] flags."""
        g = self.g
        softened = g.op("Softmax", g.op("Mul", values["logits"], values["cool"]))
        token = g.op("MatMul", softened, values["thoughts"])
        token = g.op("Add", g.op("Add", token, values["thought"]), values["hidden"])
        token = g.op("Squeeze", token, g.constant([1, 2]))
        state, read = self.host.advance(token, values["active"], values, self.state_of(values))
        refine = self.generator.refine
        weight = g.weight("refine.weight", refine.weight.T)
        delta = g.op("Gemm", read, weight, g.weight("refine.bias", refine.bias))
        delta = g.op("Unsqueeze", delta, g.constant([1, 2]))
        hidden = g.op("Add", values["hidden"], delta)
        hidden = g.op("Where", values["active"], hidden, values["hidden"])
        return {**state, "hidden": hidden}

    def pick(self, logits: str, scale: str, noise: str, pinned: str, free: str) -> Values:
        """Pick the best item, or the pinned one, and compute its log-probability."""
        g = self.g
        logprob = g.op("LogSoftmax", g.op("Mul", logits, scale))
        best = g.op("ArgMax", g.op("Add", logprob, noise), axis=3, keepdims=1)
        item = g.op("Where", free, best, pinned)
        return {"item": item, "logprob": g.op("GatherElements", logprob, item, axis=3)}

    def recommend(self, **values: str) -> Values:
        """Read the picked item and exclude the candidates whose quota it uses up."""
        g, item = self.g, values["item"]
        token = g.op("Gather", values["items"], g.op("Add", item, values["offset"]))
        token = g.op("Add", token, values["place"])
        token = g.op("Squeeze", token, g.constant([1, 2, 3]))
        state, hidden = self.host.advance(token, values["everyone"], values, self.state_of(values))
        group = g.op("GatherElements", values["group"], item, axis=3)
        same = g.op("Cast", g.op("Equal", values["group"], group), to=TensorProto.FLOAT)
        quota = g.op("Sub", values["quota"], same)
        quota = g.op("ScatterElements", quota, item, values["spent"], axis=3)
        unavailable = g.op("LessOrEqual", quota, g.number(0.0))
        prior = g.op("Where", unavailable, g.number(MASKED), values["prior"])
        hidden = g.op("Unsqueeze", hidden, g.constant([1, 2]))
        return {**state, "quota": quota, "prior": prior, "hidden": hidden}

    def state_of(self, values: Values) -> Values:
        """Select the host's state."""
        return {name: values[name] for name in self.state}
