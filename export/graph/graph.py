"""Build an ONNX model: nodes in nested scopes, functions with shared weights, branches.

A step kind is a function (FunctionProto) whose last inputs are its weights; the weights themselves
are initialisers of the main graph, entered once however often the function is called. Small
constants are nodes of the scope that uses them, so that a function reads by itself in a viewer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

DOMAIN = "eglr"
OPSET = 24  # the first whose Attention takes a cache; onnxruntime 1.31 reads up to 25
IR_VERSION = 11

Array = np.ndarray[Any, Any]
Values = dict[str, str]  # a tensor's part in the loop -> its name in the graph


@dataclass
class Scope:
    """Nodes and constants of the graph, of a function's body or of a branch."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[tuple[Any, ...], str] = field(default_factory=dict)
    weights: list[str] | None = None  # names of the weights that a function reads


class Graph:
    """Appends nodes to the innermost open scope and returns the names of their outputs."""

    def __init__(self, first: int = 1) -> None:
        """first: number of the first name, above those of a graph that this one is added to."""
        self.weights: dict[str, onnx.TensorProto] = {}
        self.functions: dict[str, onnx.FunctionProto] = {}
        self._scopes = [Scope()]
        self._count = first - 1
        self._arguments: dict[str, list[str]] = {}

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the innermost open scope."""
        return self._scopes[-1].nodes

    def append(self, node: onnx.NodeProto) -> None:
        """Append a node of another graph, whose names it keeps."""
        self._scopes[-1].nodes.append(node)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs and return their names."""
        names = [self._name(kind.lower()) for _ in range(outputs)]
        node = helper.make_node(kind, inputs, names, **attributes)
        self._scopes[-1].nodes.append(node)
        return names

    def constant(self, value: float | Sequence[int] | Array, dtype: Any = np.int64) -> str:
        """Return the name of a small constant of this scope, the same for the same value."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        scope = self._scopes[-1]
        if key not in scope.constants:
            tensor = numpy_helper.from_array(array)
            scope.constants[key] = self.op("Constant", value=tensor)
        return scope.constants[key]

    def number(self, value: float) -> str:
        """Return the name of a float32 scalar of this scope."""
        return self.constant(value, np.float32)

    def weight(self, name: str, value: Tensor | Array) -> str:
        """Enter a weight once and return its name. Raises ValueError for a second value."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        tensor = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        entered = self.weights.setdefault(name, tensor)
        if entered.SerializeToString() != tensor.SerializeToString():
            raise ValueError(f"weight {name!r}: already entered with another value")
        for scope in self._scopes:
            if scope.weights is not None and name not in scope.weights:
                scope.weights.append(name)
        return name

    def function(
        self, name: str, inputs: Sequence[str], body: Callable[..., Mapping[str, str]]
    ) -> None:
        """Define a step kind by the values that `body(**inputs)` returns, by output name.

        An output that is an input, or that has the value of another output, passes through an
        Identity node.
        """
        scope = Scope(weights=[])
        self._scopes.append(scope)
        outputs = body(**{part: part for part in inputs})
        for part, value in outputs.items():
            scope.nodes.append(helper.make_node("Identity", [value], [f"{part}_out"]))
        self._scopes.pop()
        assert scope.weights is not None
        drop_identities(scope.nodes, inputs)
        self.functions[name] = helper.make_function(
            DOMAIN,
            name,
            [*inputs, *scope.weights],
            [f"{part}_out" for part in outputs],
            scope.nodes,
            [helper.make_opsetid("", OPSET)],
        )
        self._arguments[name] = [*inputs]

    def call(self, name: str, label: str, values: Mapping[str, str]) -> Values:
        """Call a step kind and return its outputs by name, named after `label` in the graph.

        values: tensors by name, its inputs among them.
        """
        function = self.functions[name]
        inputs = self._arguments[name]
        weights = list(function.input)[len(inputs) :]
        parts = [output.removesuffix("_out") for output in function.output]
        names = {part: self._name(f"{label}.{part}") for part in parts}
        node = helper.make_node(
            name, [*(values[part] for part in inputs), *weights], list(names.values()),
            name=self._name(label), domain=DOMAIN,
        )  # fmt: skip
        self._scopes[-1].nodes.append(node)
        return names

    def branch(
        self,
        condition: str,
        label: str,
        then: Callable[[], Mapping[str, str]],
        otherwise: Callable[[], Mapping[str, str]],
        types: Mapping[str, int],
    ) -> Values:
        """Return the values of `then` if the condition bool [] holds, else those of `otherwise`.

        types: element types of the parts that both branches return.
        """
        bodies: list[onnx.GraphProto] = []
        for body in (then, otherwise):
            scope = Scope()
            self._scopes.append(scope)
            values = body()
            inside = {name for node in scope.nodes for name in node.output}
            # A branch may output only values that its own nodes compute.
            outputs = [
                values[part] if values[part] in inside else self.op("Identity", values[part])
                for part in types
            ]
            self._scopes.pop()
            infos = [
                helper.make_tensor_value_info(name, kind, None)
                for name, kind in zip(outputs, types.values(), strict=True)
            ]
            bodies.append(helper.make_graph(scope.nodes, f"{label}.{len(bodies)}", [], infos))
        names = {part: self._name(f"{label}.{part}") for part in types}
        node = helper.make_node(
            "If", [condition], list(names.values()), name=self._name(label),
            then_branch=bodies[0], else_branch=bodies[1],
        )  # fmt: skip
        self._scopes[-1].nodes.append(node)
        return names

    def output(self, name: str, value: str) -> None:
        """Give a value the name of one of the graph's outputs."""
        self._scopes[-1].nodes.append(helper.make_node("Identity", [value], [name]))

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """Return the finished model, checked with shape inference."""
        assert len(self._scopes) == 1, "a scope is still open"
        graph = helper.make_graph(
            self._scopes[0].nodes, name, inputs, outputs, initializer=list(self.weights.values())
        )
        model = helper.make_model(
            graph,
            functions=list(self.functions.values()),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
            ir_version=IR_VERSION,
            producer_name="eglr-rerank",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _name(self, hint: str) -> str:
        self._count += 1
        return f"{hint}.{self._count}"


def drop_identities(nodes: list[onnx.NodeProto], inputs: Sequence[str]) -> None:
    """Let the node that computes a function's output write it, if it writes no other one."""
    makers = {name: (node, i) for node in nodes for i, name in enumerate(node.output)}
    taken: set[str] = set()
    for node in [n for n in nodes if n.op_type == "Identity" and n.output[0].endswith("_out")]:
        source = node.input[0]
        if source in inputs or source in taken or source not in makers:
            continue
        taken.add(source)
        maker, index = makers[source]
        maker.output[index] = node.output[0]
        nodes.remove(node)
        for other in nodes:
            for i, name in enumerate(other.input):
                if name == source:
                    other.input[i] = node.output[0]
