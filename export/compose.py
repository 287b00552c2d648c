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
ENCODED = ("candidates", "keys", "mask", "memory_keys", "memory_values")
CHOICE = ("available", "logits", "entropy", "cache_keys", "cache_values", "valid", "hidden")


class Encode(nn.Module):
    """numbers, tokens, mask -> everything that later steps read, and the first choice."""

    inputs = ("numbers", "tokens", "mask")
    outputs = ("candidates", "keys", "memory_keys", "memory_values", *CHOICE[1:])

    def __init__(self, generator: Generator, temperature: float) -> None:
        super().__init__()
        self.generator, self.temperature = generator, temperature

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


class Reason(Encode):
    """One reasoning step behind its gate."""

    inputs = (*ENCODED, *CHOICE, "step", "threshold", "budget", "before", "steps")
    outputs = (*CHOICE[1:], "active", "taken")

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        encoded, choice = unpack(tensors)
        step, threshold, budget, before, steps = tensors[len(ENCODED) + len(CHOICE) :]
        active = before & gate(choice, threshold, budget, step)
        choice = reason_where(self.generator, encoded, choice, step, active)
        return choice.logits, choice.entropy, *choice.state, active, steps + active


class Pick(Encode):
    """The greedy choice of a position and its output columns [B, 1]."""

    inputs = ("available", "logits", "entropy", "first_entropy", "steps")
    outputs = ("item", *(f"{name}_column" for name in OUTPUTS))

    def forward(  # type: ignore[override]
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


class Recommend(Encode):
    """Put the item into the slate; the next choice."""

    inputs = (*ENCODED, *CHOICE, "item", "position")
    outputs = CHOICE

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        encoded, choice = unpack(tensors)
        item, position = tensors[len(ENCODED) + len(CHOICE) :]
        choice = self.generator.recommend(encoded, choice, item, position)
        return choice.available, choice.logits, choice.entropy, *choice.state


def unpack(tensors: Sequence[Tensor]) -> tuple[Encoded, Choice]:
    """The flat tensors of a step, by ENCODED and CHOICE."""
    candidates, keys, mask, memory_keys, memory_values = tensors[: len(ENCODED)]
    available, logits, entropy, *state = tensors[len(ENCODED) : len(ENCODED) + len(CHOICE)]
    encoded = Encoded(candidates, keys, mask, (memory_keys, memory_values))
    return encoded, Choice(available, logits, entropy, tuple(state))


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
    tensors = [*encoded[:3], *encoded.memory, *choice[:3], *choice.state]
    given |= {
        name: tensor.clone() for name, tensor in zip((*ENCODED, *CHOICE), tensors, strict=True)
    }
    given |= {name: torch.tensor(0) for name in ("step", "position")}
    given |= {"threshold": torch.zeros(batch), "first_entropy": torch.ones(batch)}
    given |= {name: torch.zeros(batch, dtype=torch.int64) for name in ("budget", "steps", "item")}
    return given | {"before": torch.ones(batch, dtype=torch.bool)}


# Which axes vary: B at 0 everywhere but for scalars, N and the cache length L as listed.
AXES = {
    **{name: {0: "B", 1: "N"} for name in ("numbers", "tokens", "mask", "candidates", "keys")},
    **{name: {0: "B", 1: "N"} for name in ("available", "logits")},
    **{name: {0: "B", 2: "N"} for name in ("memory_keys", "memory_values")},
    **{name: {0: "B", 2: "L"} for name in ("cache_keys", "cache_values")},
    "valid": {0: "B", 1: "L"},
    "step": {},
    "position": {},
}


def export_step(
    kind: type[Encode], generator: Generator, temperature: float, given: dict[str, Tensor]
) -> onnx.ModelProto:
    """Export one step kind on its own."""
    module = kind(generator, temperature).eval()
    shapes = tuple(dict.fromkeys(AXES.get(name, {0: "B"}), Dim.DYNAMIC) for name in kind.inputs)
    variadic = kind in (Reason, Recommend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, not ours to mend
        program = torch.onnx.export(
            module,
            tuple(given[name] for name in kind.inputs),
            input_names=list(kind.inputs),
            output_names=[f"{name}_out" for name in kind.outputs],
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

    def add(self, name: str, kind: type[Encode], model: onnx.ModelProto) -> None:
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
    kinds: dict[str, type[Encode]] = {"Encode": Encode, "Pick": Pick}
    if budget:
        kinds["Reason"] = Reason
    if slate_length > 1:
        kinds["Recommend"] = Recommend
    for name, kind in kinds.items():
        composer.add(name, kind, export_step(kind, generator, temperature, given))

    now = {name: name for name in ("mask", *Encode.outputs)} | {"available": "mask"}
    composer.call("Encode", "encode", list(Encode.inputs), list(Encode.outputs))
    everyone, none = _constants_per_row(composer)
    columns: list[list[str]] = []
    for position in range(slate_length):
        first_entropy, before, steps = now["entropy"], everyone, none
        for step in range(budget):
            label = f"p{position}.s{step}"
            extra = [composer.constant(f"number_{step}", step), "entropy_threshold", "budget"]
            inputs = [now[name] for name in (*ENCODED, *CHOICE)]
            outputs = [f"{label}.{name}" for name in Reason.outputs]
            composer.call("Reason", label, [*inputs, *extra, before, steps], outputs)
            now |= dict(zip(CHOICE[1:], outputs, strict=False))
            before, steps = outputs[-2:]
        outputs = [f"p{position}.{name}" for name in Pick.outputs]
        inputs = [now["available"], now["logits"], now["entropy"], first_entropy, steps]
        composer.call("Pick", f"p{position}.pick", inputs, outputs)
        columns.append(outputs[1:])
        if position + 1 < slate_length:
            number = composer.constant(f"number_{position}", position)
            inputs = [now[name] for name in (*ENCODED, *CHOICE)]
            next_names = [f"p{position + 1}.{name}" for name in CHOICE]
            composer.call(
                "Recommend", f"p{position}.recommend", [*inputs, outputs[0], number], next_names
            )
            now |= dict(zip(CHOICE, next_names, strict=True))
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
