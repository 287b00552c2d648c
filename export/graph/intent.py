"""Add intent to the graph of a generator: diversity and boosts (service.engine.intent).

A composed graph is rewritten, so that an export and the upgrade of a bundle share this code. At
each position boost and diversity are added to the prior that Choose reads; nothing else changes.
Nothing branches around the addition: slates without intent run on the graph without it.

Two step kinds are added, Keep and Adjust. Their values, beside those of export.graph.compose.Loop:

    table [R, 1, C, N]                     share u of each value of a candidate
    factors [R, N, C]                      by which an item multiplies the columns of `kept`
    kept [R, 1, A, C]                      1 in the columns of attribute A, times retained ^ count
    weight [R, 1, 1, A]                    of the attributes

Axes: R slates, N candidates, A attributes, C columns of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import onnx

from export.graph.compose import infos
from export.graph.graph import Graph, Values
from service.engine.contract import INTENT_INPUTS

COUNTER = re.compile(r"\.(\d+)$")  # of a name in a composed graph


class RewriteError(ValueError):
    """A graph that is none of export.graph.compose."""


def with_intent(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph of a generator, in either form, with the inputs of intent.

    Raises RewriteError for a graph without the step kinds of export.graph.compose.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    rewriting = Rewriting(changed)
    nodes = rewriting.rewrite(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.input.extend(infos(INTENT_INPUTS, {}))
    changed.functions.extend(rewriting.g.functions.values())
    onnx.checker.check_model(changed, full_check=True)
    return changed


def intent_file(path: Path) -> bytes:
    """Return the graph of a file with the inputs of intent.

    Raises RewriteError as `with_intent` does.
    """
    content: bytes = with_intent(onnx.load(path)).SerializeToString()
    return content


class Rewriting:
    """Lays out the nodes of a loop anew, with the adjustment of each position before its Choose."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.functions = {function.name: list(function.input) for function in model.functions}
        if not {"Choose", "Pick"} <= self.functions.keys():
            raise RewriteError(
                f"step kinds: Choose and Pick must be among them, got {sorted(self.functions)}"
            )
        names = (name for node in every_node(model.graph.node) for name in node.output)
        numbers = (int(match[1]) for name in names if (match := COUNTER.search(name)))
        self.g = Graph(first=1 + max(numbers, default=0))
        self.g.function("Keep", ("kept", "factors", "item"), self.keep)
        self.g.function("Adjust", ("kept", "table", "weight", "prior"), self.adjust)
        self.values: Values = {}
        self.adjusted: dict[str, str] = {}  # prior of a position -> the same with the adjustment

    def rewrite(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Return the nodes of the graph in order, those of the intent among them."""
        boosted: dict[str, str] = {}  # the first prior, which every later one is made from
        for node in nodes:
            if node.op_type == "Choose":
                prior = node.input[self.place("Choose", "prior")]
                if not self.values:
                    boosted[prior] = self.prepare(prior)
                self.add_adjustment(prior, boosted.get(prior, prior))
            self.rename(node)
            if node.op_type == "Recommend":
                self.values["item"] = node.input[self.place("Recommend", "item")]
                at = self.place("Recommend", "prior")
                node.input[at] = boosted.get(node.input[at], node.input[at])
            self.g.append(node)
        return self.g.nodes

    def place(self, kind: str, part: str) -> int:
        """Return the number of an input of a step kind. Raises RewriteError if it has none."""
        if part not in self.functions.get(kind, []):
            raise RewriteError(f"step kind {kind}: must have the input {part!r}")
        return self.functions[kind].index(part)

    def prepare(self, prior: str) -> str:
        """Lay out the inputs for all positions; return the first prior with the boosts."""
        g, one = self.g, self.g.constant([1])
        # Of lists, and only then spread over slates: many slates of a list need less memory.
        held = g.op("Gather", g.op("Greater", "values", g.number(0.0)), "list")
        table = g.op("Gather", g.op("Transpose", "values", perm=[0, 2, 1]), "list")
        retained = g.op("Unsqueeze", "retained", one)
        self.values = {
            "factors": g.op("Where", held, retained, g.number(1.0)),
            "table": g.op("Unsqueeze", table, one),
            "kept": g.op("Unsqueeze", g.op("Gather", "member", "list"), one),
            "weight": g.op("Unsqueeze", "diversity_weight", g.constant([1, 2])),
        }
        return g.op("Add", prior, g.op("Unsqueeze", "boost", g.constant([1, 2])))

    def add_adjustment(self, prior: str, boosted: str) -> None:
        """Add the adjustment of the next position, unless a Choose of it came before."""
        if prior in self.adjusted:
            return
        label = f"p{len(self.adjusted)}"
        if "item" in self.values:
            self.values |= self.g.call("Keep", f"{label}.keep", self.values)
        values = {**self.values, "prior": boosted}
        self.adjusted[prior] = self.g.call("Adjust", f"{label}.adjust", values)["adjusted"]

    def rename(self, node: onnx.NodeProto) -> None:
        """Let every Choose, in branches too, read the adjusted prior of its position."""
        for inner in every_node([node]):
            if inner.op_type == "Choose":
                at = self.place("Choose", "prior")
                inner.input[at] = self.adjusted[inner.input[at]]

    def keep(self, kept: str, factors: str, item: str) -> Values:
        """Multiply the columns of the values that the item of the position before has."""
        return {"kept": self.g.op("Mul", kept, self.g.op("GatherND", factors, item, batch_dims=1))}

    def adjust(self, kept: str, table: str, weight: str, prior: str) -> Values:
        """Add weight * ln f to the prior [R, 1, 1, N]."""
        g = self.g
        bonus = g.op("MatMul", weight, g.op("Log", g.op("MatMul", kept, table)))
        return {"adjusted": g.op("Add", prior, bonus)}


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """Yield the nodes and those of their branches."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from every_node(attribute.g.node)
