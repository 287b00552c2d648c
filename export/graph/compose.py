"""Compose the unrolled graph: each step kind is defined once and called K x (1 + S) times.

One graph has two forms. *gated*: a branch skips the reasoning before a position if no row of the
batch takes a step there. *static*: every step is taken and masked, without control flow, as CUDA
graphs require.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph.graph import Graph, Values
from export.graph.lower import ComposeError, evaluator_likes
from export.graph.steps import LIST_INPUTS, StepKinds
from model.network.evaluator import Evaluator
from model.network.generator import Generator
from model.network.layers import MASKED
from service.engine.contract import EVALUATOR_INPUTS, EVALUATOR_OUTPUTS, INPUTS, OUTPUTS

# Parts of a choice that are read after reasoning; its hidden state is not.
CHOICE = {"logits": TensorProto.FLOAT, "certainty": TensorProto.FLOAT}
CLOSED = -1e9  # a limit that no certainty is below, so no step is taken


class Loop:
    """Lays out the reasoning loop of one generator as calls of its step kinds.

    `values` maps a tensor's part in the loop to its name in the graph, for all that the next step
    reads. Axes of length 1 save reshapes: a row's flag is an attention mask. A key that a step kind
    reads or returns becomes the name of an input or output of its ONNX function, so renaming one
    changes the bytes of every bundle. These are their meanings:

        keys, prior, thoughts, items   of the lists (export.graph.lower.encode)
        hidden [R, 1, 1, D]            hidden state of the host
        logits [R, 1, 1, N]            of the choice, at temperature 1
        certainty [R, 1, 1, 1]         negative entropy of the choice, nats
        like [R]                       any tensor of R rows: gives the start token their number
        everyone [R, 1, 1, 1]          true in every row
        active [R, 1, 1, 1]            rows that take the reasoning step
        thought [D]                    embedding of the reasoning step and bias of its token
        cool [R, 1, 1, 1]              1 / reasoning temperature
        scale [R, 1, 1, 1]             1 / recommending temperature
        place [D]                      embedding of the position
        offset [R, 1, 1, 1]            row of `items` at which the slate's list begins
        item [R, 1, 1, 1]              candidate put at the position
        group, quota [R, 1, 1, N]      as in the contract; quota counts down while items are put
        spent [R, 1, 1, 1]             -1, the quota of a chosen item
        noise, pinned, free            of the position: [R, 1, 1, N] or [R, 1, 1, 1]

    Others are no names in the graph: inside and chosen bool [R, K], positions of the slate and
    those without a pin; limit.P.S [R, 1, 1, 1], the certainty below which step S before position P
    is taken; none_taken bool [R, 1, 1, S], all false.
    """

    def __init__(
        self, generator: Generator, columns: Sequence[int], slate_length: int, gated: bool
    ) -> None:
        self.g, self.generator, self.gated = Graph(), generator, gated
        self.slate_length = slate_length
        self.budget = generator.reasoning.budget
        self.kinds = StepKinds(self.g, generator, columns)
        self.values: Values = {}

    def compose(self) -> None:
        """Lay out the whole loop, from the contract's inputs to its outputs."""
        g, k = self.g, self.slate_length
        self.kinds.define(k)
        self.prepare()
        columns: list[Values] = []
        self.values |= g.call("Start", "start", self.values)
        self.choose("p0")
        for position in range(k):
            label = f"p{position}"
            before = self.values["certainty"]
            if self.budget:
                self.values |= self.reason(position)
            self.values |= {
                name: self.values[f"{name}.{position}"] for name in ("noise", "pinned", "free")
            }
            picked = g.call("Pick", f"{label}.pick", self.values)
            columns.append(
                {**picked, "before": before, "after": self.values["certainty"],
                 **{name: self.values[name] for name in ("logits", "taken") if name in self.values}}
            )  # fmt: skip
            if position + 1 < k:
                place = self.generator.position.weight[position]
                self.values |= {
                    "item": picked["item"],
                    "place": g.weight(f"place.{position}", place),
                }
                self.values |= g.call("Recommend", f"{label}.recommend", self.values)
                self.choose(f"p{position + 1}")
        self.outputs(columns)

    def prepare(self) -> None:
        """Encode the lists, spread them over the slates, unpack their inputs for all steps."""
        g, k = self.g, self.slate_length
        lists = g.call("Encode", "encode", {name: name for name in LIST_INPUTS})
        per_slate = {name: g.op("Gather", lists[name], "list") for name in self.kinds.memory}

        def scalar(name: str) -> str:  # [R] -> [R, 1, 1, 1]
            return g.op("Unsqueeze", name, g.constant([1, 2, 3]))

        # N is counted: the output of a Shape lies in CPU memory, and a CUDA graph captures no copy
        # from there.
        ones = g.op("Cast", g.op("Equal", "group", "group"), to=TensorProto.INT64)
        size = g.op("ReduceSum", ones, g.constant([1]), keepdims=0)  # [R]
        quota, group = (g.op("Unsqueeze", n, g.constant([1, 2])) for n in ("quota", "group"))
        unavailable = g.op("LessOrEqual", quota, g.number(0.0))
        length = g.op("Unsqueeze", "length", g.constant([1]))
        inside = g.op("Less", g.constant(np.arange(k)), length)  # [R, K]
        free = g.op("Less", "pinned", g.constant(0))
        everyone = g.op("GreaterOrEqual", scalar("length"), g.constant(0))
        self.values |= {
            **per_slate,
            "prior": g.op("Where", unavailable, g.number(MASKED), per_slate["prior"]),
            "items": lists["items"],
            "like": "list",
            "everyone": everyone,
            "offset": scalar(g.op("Mul", "list", size)),
            "group": group,
            "quota": quota,
            "spent": g.op("Neg", g.op("Cast", everyone, to=TensorProto.FLOAT)),
            "scale": g.op("Reciprocal", scalar("recommend_temperature")),
            "inside": inside,
            "chosen": g.op("And", inside, free),
        }
        for name, value, axes in (
            ("noise", "noise", [2]),
            ("pinned", "pinned", [2, 3]),
            ("free", free, [2, 3]),
        ):
            value = g.op("Unsqueeze", value, g.constant(axes))
            self.split(value, [f"{name}.{position}" for position in range(k)])
        if self.budget:
            self.values["cool"] = g.op("Reciprocal", scalar("reason_temperature"))
            never = g.constant(np.zeros((1, 1, 1, self.budget)), np.bool_)
            self.values["none_taken"] = g.op("And", everyone, never)
            # A step is taken below this certainty, and never beyond the budget or the slate.
            steps = g.constant(np.arange(self.budget))
            left = g.op("Less", steps, scalar("budget"))  # [R, 1, 1, S]
            chosen = g.op("Unsqueeze", self.values["chosen"], g.constant([2, 3]))
            allowed = g.op("And", left, chosen)  # [R, K, 1, S]
            limit = g.op("Neg", scalar("entropy_threshold"))
            limits = g.op("Where", allowed, limit, g.number(CLOSED))
            limits = g.op("Reshape", limits, g.constant([0, k * self.budget, 1, 1]))
            names = [f"limit.{p}.{s}" for p in range(k) for s in range(self.budget)]
            self.split(limits, names)

    def split(self, value: str, names: list[str]) -> None:
        """Cut a value along axis 1 into pieces of length 1 under these names."""
        if len(names) == 1:
            self.values[names[0]] = value
            return
        pieces = self.g.ops("Split", value, outputs=len(names), axis=1, num_outputs=len(names))
        self.values |= dict(zip(names, pieces, strict=True))

    def choose(self, label: str) -> None:
        """Compute logits and certainty of the hidden state."""
        self.values |= self.g.call("Choose", f"{label}.choose", self.values)

    def reason(self, position: int) -> Values:
        """Return choice, state and `taken` bool [R, 1, 1, S], the steps that each row took."""
        g, now = self.g, self.values
        active = g.op("Less", now["certainty"], now[f"limit.{position}.0"])
        if not self.gated:
            return self.steps(position, active)
        last = position + 1 == self.slate_length
        types = {
            **CHOICE,
            "taken": TensorProto.BOOL,
            **({} if last else self.kinds.host.state_types),
        }
        return g.branch(
            # One gate a position: a row that takes the first step nearly always takes the others.
            g.op("ReduceMax", active, keepdims=0),
            f"p{position}.gate",
            lambda: self.steps(position, active),
            lambda: now | {"taken": now["none_taken"]},
            types,
        )

    def steps(self, position: int, active: str) -> Values:
        """Take every step before a position, masked; `active` flags rows that take the first."""
        g, now, taken = self.g, dict(self.values), [active]
        for step in range(self.budget):
            if step:
                # A row that skipped the step before has the same certainty, so it takes none now.
                taken.append(g.op("Less", now["certainty"], now[f"limit.{position}.{step}"]))
            # The token's bias is added here, once, instead of to every candidate's projection.
            thought = self.generator.reason_step.weight[step] + self.generator.reason_token.bias
            label = f"p{position}.s{step}"
            now |= {"active": taken[-1], "thought": g.weight(f"thought.{step}", thought)}
            now |= g.call("Reason", label, now)
            now |= g.call("Choose", f"{label}.choose", now)
        result = {name: now[name] for name in (*CHOICE, *self.kinds.state)}
        return result | {"taken": g.op("Concat", *taken, axis=3)}

    def outputs(self, columns: list[Values]) -> None:
        """Join the columns [R, 1, 1, .] of all positions, and blank positions without a choice."""
        g = self.g

        def joined(name: str) -> str:
            return g.op("Concat", *(column[name] for column in columns), axis=1)

        def flat(name: str) -> str:
            return g.op("Squeeze", joined(name), g.constant([2, 3]))

        chosen, nothing = self.values["chosen"], g.number(0.0)
        outputs = {
            "slate": g.op("Where", self.values["inside"], flat("item"), g.constant(-1)),
            "logprob": g.op("Where", chosen, flat("logprob"), nothing),
            "entropy_before": g.op("Where", chosen, g.op("Neg", flat("before")), nothing),
            "entropy_after": g.op("Where", chosen, g.op("Neg", flat("after")), nothing),
            "logits": g.op("Squeeze", joined("logits"), g.constant([2])),
        }
        if self.budget:
            taken = g.op("Cast", joined("taken"), to=TensorProto.INT64)
            outputs["steps"] = g.op("ReduceSum", taken, g.constant([2, 3]), keepdims=0)
        else:
            zero = g.op("Cast", self.values["chosen"], to=TensorProto.INT64)
            outputs["steps"] = g.op("Mul", zero, g.constant(0))
        for name in OUTPUTS:
            g.output(name, outputs[name])


def compose(
    generator: Generator, columns: Sequence[int], slate_length: int, gated: bool
) -> onnx.ModelProto:
    """Return the unrolled graph with the contract's inputs and outputs; B, N and R are dynamic.

    columns: those of the featuriser that depend on the request. Raises ComposeError for a host
    without a lowering and for the generator of an ablation control: only the paper's token, added
    to the state, is served.
    """
    reasoning = generator.reasoning
    for name, served in (("token", "aggregate"), ("update", "add")):
        if getattr(reasoning, name) != served:
            raise ComposeError(
                f"reasoning.{name}: only {served!r} is served, got {getattr(reasoning, name)!r}"
            )
    loop = Loop(generator, columns, slate_length, gated)
    loop.compose()
    width = generator.embed.project.out_features
    fixed = {"F": len(columns), "D": width, "K": slate_length}
    return loop.g.model("eglr", infos(INPUTS, fixed), infos(OUTPUTS, fixed))


def compose_evaluator(
    evaluator: Evaluator, columns: Sequence[int], slate_length: int
) -> onnx.ModelProto:
    """Return the evaluator's graph over finished slates: like-probabilities and utility."""
    g = Graph()
    inputs = {name: name for name in EVALUATOR_INPUTS}
    likes, utility = evaluator_likes(g, evaluator, columns, slate_length, inputs)
    g.output("likes", likes)
    g.output("utility", utility)
    width = evaluator.embed.project.out_features
    fixed = {"F": len(columns), "D": width, "K": slate_length}
    return g.model("evaluator", infos(EVALUATOR_INPUTS, fixed), infos(EVALUATOR_OUTPUTS, fixed))


def infos(
    table: dict[str, tuple[type[np.generic], tuple[str, ...]]], fixed: dict[str, int]
) -> list[onnx.ValueInfoProto]:
    """Describe the contract's tensors in ONNX; `fixed` gives the axes of known length."""
    return [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
            [fixed.get(axis, axis) for axis in axes],
        )
        for name, (dtype, axes) in table.items()
    ]
