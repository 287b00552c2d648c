"""Compose the unrolled graph: each step kind is exported once and called K x (1 + S) times.

The exporter sees four small modules, never the loop; the loop is laid out here as calls of ONNX
functions that share their weights as initialisers of the main graph. Exporting the whole unrolled
loop at once takes minutes and gives a graph nobody can read.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.export import Dim

from model.generator import Choice, Encoded, Generator
from model.reasoning import chosen_logprob, gate, reason_where
from service.contract import INPUTS, OUTPUTS

DOMAIN = "eglr"
OPSET = 20
IR_VERSION = 10
ENCODED = ("candidates", "keys", "mask")  # and the host's memory
CHOICE = ("available", "logits", "entropy")  # and the host's state


class Step(nn.Module):
    """A step kind: flat tensors in, flat tensors out, by the names in `inputs` and `outputs`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, generator: Generator, temperature: float) -> None:
        super().__init__()
        self.generator, self.temperature = generator, temperature
        self.encoded = (*ENCODED, *generator.host.memory_axes)
        self.choice = (*CHOICE, *generator.host.state_axes)

    def unpack(self, tensors: Sequence[Tensor]) -> tuple[Encoded, Choice, Sequence[Tensor]]:
        """The flat tensors of a step: what was encoded, the choice, and what else there is."""
        seen = len(self.encoded)
        candidates, keys, mask, *memory = tensors[:seen]
        available, logits, entropy, *state = tensors[seen : seen + len(self.choice)]
        encoded = Encoded(candidates, keys, mask, tuple(memory))
        choice = Choice(available, logits, entropy, tuple(state))
        return encoded, choice, tensors[seen + len(self.choice) :]


class Encode(Step):
    """numbers, tokens, mask -> everything that later steps read, and the first choice."""

    def __init__(self, generator: Generator, temperature: float) -> None:
        super().__init__(generator, temperature)
        self.inputs = ("numbers", "tokens", "mask")
        self.outputs = tuple(n for n in (*self.encoded, *self.choice[1:]) if n != "mask")

    def forward(self, numbers: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        encoded = self.generator.encode(numbers, tokens, mask)
        choice = self.generator.begin(encoded)
        return (
            encoded.candidates,
            encoded.keys,
            *encoded.memory,
            choice.logits,
            choice.entropy,
            *choice.state,
        )


class Reason(Step):
    """One reasoning step behind its gate."""

    def __init__(self, generator: Generator, temperature: float) -> None:
        super().__init__(generator, temperature)
        knobs = ("step", "threshold", "budget", "before", "steps")
        self.inputs = (*self.encoded, *self.choice, *knobs)
        self.outputs = (*self.choice[1:], "active", "taken")

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        encoded, choice, (step, threshold, budget, before, steps) = self.unpack(tensors)
        active = before & gate(choice, threshold, budget, step)
        choice = reason_where(self.generator, encoded, choice, step, active)
        return choice.logits, choice.entropy, *choice.state, active, steps + active


class Pick(Step):
    """The greedy choice of a position and its output columns [B, 1]."""

    inputs = ("available", "logits", "entropy", "first_entropy", "steps")
    outputs = ("item", *(f"{name}_column" for name in OUTPUTS))

    def forward(
        self,
        available: Tensor,
        logits: Tensor,
        entropy: Tensor,
        first_entropy: Tensor,
        steps: Tensor,
    ) -> tuple[Tensor, ...]:
        alive = available.any(dim=1)
        item = logits.argmax(dim=-1)
        logprob = chosen_logprob(logits, item, self.temperature)
        columns = [
            torch.where(alive, item, -torch.ones_like(item)),
            *(
                torch.where(alive, x, torch.zeros_like(x))
                for x in (logprob, first_entropy, entropy, steps)
            ),
        ]
        return item, *(column.unsqueeze(1) for column in columns)


class Recommend(Step):
    """Put the item into the slate; the next choice."""

    def __init__(self, generator: Generator, temperature: float) -> None:
        super().__init__(generator, temperature)
        self.inputs = (*self.encoded, *self.choice, "item", "position")
        self.outputs = self.choice

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        encoded, choice, (item, position) = self.unpack(tensors)
        choice = self.generator.recommend(encoded, choice, item, position)
        return choice.available, choice.logits, choice.entropy, *choice.state


def examples(generator: Generator, numbers: int, tokens: int) -> dict[str, Tensor]:
    """One example tensor per name, all distinct objects: torch.export merges equal ones."""
    batch, size, slots = 2, 5, 3
    mask = torch.ones(batch, size, dtype=torch.bool)
    given = {
        "numbers": torch.randn(batch, size, numbers),
        "tokens": torch.zeros(batch, size, tokens, dtype=torch.int64),
        "mask": mask,
    }
    with torch.no_grad():
        encoded = generator.encode(**given)
        choice = generator.begin(encoded)
        for _ in range(slots - 1):
            number = torch.tensor(0)
            choice = generator.reason(encoded, choice, number, torch.ones(batch) > 0)
    named = [
        *zip(ENCODED, encoded[:3], strict=True),
        *zip(generator.host.memory_axes, encoded.memory, strict=True),
        *zip(CHOICE, choice[:3], strict=True),
        *zip(generator.host.state_axes, choice.state, strict=True),
    ]
    given |= {name: tensor.clone() for name, tensor in named}
    given |= {name: torch.tensor(0) for name in ("step", "position")}
    given |= {"threshold": torch.zeros(batch), "first_entropy": torch.ones(batch)}
    given |= {name: torch.zeros(batch, dtype=torch.int64) for name in ("budget", "steps", "item")}
    return given | {"before": torch.ones(batch, dtype=torch.bool)}


# Which axes vary: B at 0 everywhere but for scalars, N as listed; the host names those of its own.
AXES = {
    **{name: {0: "B", 1: "N"} for name in ("numbers", "tokens", "mask", "candidates", "keys")},
    **{name: {0: "B", 1: "N"} for name in ("available", "logits")},
    "step": {},
    "position": {},
}


def export_step(step: Step, given: dict[str, Tensor]) -> onnx.ModelProto:
    """Export one step kind on its own."""
    host = step.generator.host
    axes = AXES | host.memory_axes | host.state_axes
    shapes = tuple(dict.fromkeys(axes.get(name, {0: "B"}), Dim.DYNAMIC) for name in step.inputs)
    variadic = isinstance(step, Reason | Recommend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, not ours to mend
        program = torch.onnx.export(
            step.eval(),
            tuple(given[name] for name in step.inputs),
            input_names=list(step.inputs),
            output_names=[f"{name}_out" for name in step.outputs],
            dynamic_shapes=(shapes,) if variadic else shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


class Composer:
    """Collects functions, shared weights and calls into one model."""

    def __init__(self) -> None:
        self.functions: list[onnx.FunctionProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []
        self._arguments: dict[str, list[str]] = {}

    def add(self, name: str, kind: Step, model: onnx.ModelProto) -> None:
        """Make an exported step a function whose last inputs are its weights."""
        graph = model.graph
        if [value.name for value in graph.input] != list(kind.inputs):
            raise ValueError(
                f"{name}: the exporter kept {[v.name for v in graph.input]}, "
                f"expected {list(kind.inputs)}"
            )
        arguments = []
        renamed = {}
        for tensor in graph.initializer:
            renamed[tensor.name] = f"w.{tensor.name}"
            arguments.append(self._share(tensor))
        nodes = list(graph.node)
        for node in nodes:
            # Stack traces of the exporter: long, of no use to a reader, and full of its paths.
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
            for index, value in enumerate(node.input):
                node.input[index] = renamed.get(value, value)
        function = helper.make_function(
            DOMAIN,
            name,
            [*kind.inputs, *renamed.values()],
            [v.name for v in graph.output],
            nodes,
            [helper.make_opsetid(o.domain, o.version) for o in model.opset_import],
        )
        if model.functions:
            raise ValueError(f"{name}: the exporter left functions {model.functions[0].name} ...")
        self.functions.append(function)
        self._arguments[name] = arguments

    def _share(self, tensor: onnx.TensorProto) -> str:
        """Enter a weight once; equal names with other contents (lifted constants) get a suffix."""
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        name, number = tensor.name, 0
        while True:
            copy.name = name if number == 0 else f"{name}.{number}"
            known = self.weights.setdefault(copy.name, copy)
            if known.SerializeToString() == copy.SerializeToString():
                return copy.name
            number += 1

    def call(self, name: str, label: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Append one call of a function."""
        arguments = [*inputs, *self._arguments[name]]
        self.nodes.append(helper.make_node(name, arguments, outputs, name=label, domain=DOMAIN))

    def constant(self, name: str, value: int) -> str:
        """A shared int64 scalar."""
        self.weights.setdefault(name, helper.make_tensor(name, TensorProto.INT64, [], [value]))
        return name


def compose(
    generator: Generator,
    numbers: int,
    tokens: int,
    slate_length: int,
    budget: int,
    temperature: float,
) -> onnx.ModelProto:
    """The unrolled graph with the contract's inputs and outputs; batch and list size dynamic.

    The budget is the most steps per position; per row less may be asked. Without rows that want it
    a step still runs, masked (the static form).
    """
    given = examples(generator, numbers, tokens)
    composer = Composer()
    encode, reason, pick, recommend = (
        kind(generator, temperature) for kind in (Encode, Reason, Pick, Recommend)
    )
    steps_used = {"Encode": encode, "Pick": pick}
    if budget:
        steps_used["Reason"] = reason
    if slate_length > 1:
        steps_used["Recommend"] = recommend
    for name, step_kind in steps_used.items():
        composer.add(name, step_kind, export_step(step_kind, given))

    read, state = (*encode.encoded, *encode.choice), encode.choice
    now = {name: name for name in ("mask", *encode.outputs)} | {"available": "mask"}
    composer.call("Encode", "encode", list(encode.inputs), list(encode.outputs))
    everyone, none = _constants_per_row(composer)
    columns: list[list[str]] = []
    for position in range(slate_length):
        first_entropy, before, steps = now["entropy"], everyone, none
        for step in range(budget):
            label = f"p{position}.s{step}"
            extra = [composer.constant(f"number_{step}", step), "entropy_threshold", "budget"]
            inputs = [now[name] for name in read]
            outputs = [f"{label}.{name}" for name in reason.outputs]
            composer.call("Reason", label, [*inputs, *extra, before, steps], outputs)
            now |= dict(zip(state[1:], outputs, strict=False))
            before, steps = outputs[-2:]
        outputs = [f"p{position}.{name}" for name in pick.outputs]
        inputs = [now["available"], now["logits"], now["entropy"], first_entropy, steps]
        composer.call("Pick", f"p{position}.pick", inputs, outputs)
        columns.append(outputs[1:])
        if position + 1 < slate_length:
            number = composer.constant(f"number_{position}", position)
            inputs = [now[name] for name in read]
            next_names = [f"p{position + 1}.{name}" for name in state]
            composer.call(
                "Recommend", f"p{position}.recommend", [*inputs, outputs[0], number], next_names
            )
            now |= dict(zip(state, next_names, strict=True))
    for output, parts in zip(OUTPUTS, zip(*columns, strict=True), strict=True):
        composer.nodes.append(helper.make_node("Concat", parts, [output], name=output, axis=1))
    return _model(composer, {"F": numbers, "T": tokens, "K": slate_length})


def _constants_per_row(composer: Composer) -> tuple[str, str]:
    """Names of a true bool [B] and a zero int64 [B], made from the budget input."""
    composer.constant("zero", 0)
    composer.nodes.append(helper.make_node("Mul", ["budget", "zero"], ["no_steps"]))
    composer.nodes.append(helper.make_node("Equal", ["no_steps", "zero"], ["every_row"]))
    return "every_row", "no_steps"


def _model(composer: Composer, fixed: dict[str, int]) -> onnx.ModelProto:
    def values(table: dict[str, tuple[Any, tuple[str, ...]]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(dtype_of(dtype)),
                [fixed.get(axis, axis) for axis in axes],
            )
            for name, (dtype, axes) in table.items()
        ]

    graph = helper.make_graph(
        composer.nodes,
        "eglr",
        values(INPUTS),
        values(OUTPUTS),
        initializer=list(composer.weights.values()),
    )
    model = helper.make_model(
        graph,
        functions=composer.functions,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="eglr-rerank",
    )
    onnx.checker.check_model(model)
    return model


def dtype_of(scalar: Any) -> Any:
    """numpy scalar type -> numpy dtype."""
    import numpy as np

    return np.dtype(scalar)
