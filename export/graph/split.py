"""Rewrite a graph of the old contract to read item rows in place of all numbers and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from export.graph.compose import infos
from service.engine.contract import EVALUATOR_INPUTS, INPUTS

PROJECTION, TABLE = "embed.project.weight", "embed.table"
RENAMED = {"numbers": "rows", "tokens": "numbers"}  # in the order of inputs

Nodes = Any  # a repeated field of nodes, of a graph or a function


class SplitError(ValueError):
    """A graph is none of the old contract."""


@dataclass(frozen=True)
class Embedding:
    """The weights of an embedding: projection float32 [F, D] and table float32 [V, D]."""

    projection: npt.NDArray[np.float32]
    table: npt.NDArray[np.float32]


def embedding_of(model: onnx.ModelProto) -> Embedding:
    """Return the embedding's weights. Raises SplitError for a graph without them."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    for name in (PROJECTION, TABLE):
        if name not in weights:
            raise SplitError(f"initializer {name!r}: must be in the graph, got {sorted(weights)}")
    projection, table = (numpy_helper.to_array(weights[name]) for name in (PROJECTION, TABLE))
    return Embedding(projection, table)


def split_file(path: Path, columns: Sequence[int]) -> tuple[bytes, Embedding]:
    """Return the graph of a file over item rows, and the weights of its embedding.

    Raises SplitError as `split` does.
    """
    model = onnx.load(path)
    return split(model, columns).SerializeToString(), embedding_of(model)


def split(model: onnx.ModelProto, columns: Sequence[int]) -> onnx.ModelProto:
    """Return the graph over item rows and the columns of the request; it has no token table.

    Args:
        model: a generator or evaluator of the old contract.
        columns: those of its numbers that depend on the request.

    Raises SplitError for a graph without the nodes of an embedding.
    """
    embedding, graph = embedding_of(model), onnx.ModelProto()
    graph.CopyFrom(model)
    inside = [scope for scope in graph.functions if TABLE in scope.input]
    if inside:
        read_rows(inside[0].node, bool(columns))
        callers = [node for node in graph.graph.node if node.op_type == inside[0].name]
        for inputs in (inside[0].input, *(caller.input for caller in callers)):
            kept = [RENAMED.get(name, name) for name in inputs if name != TABLE]
            del inputs[:]
            inputs.extend(kept)
    else:
        read_rows(graph.graph.node, bool(columns))
    body = graph.graph
    width = embedding.projection.shape[1]
    for weight in [w for w in body.initializer if w.name in (PROJECTION, TABLE)]:
        body.initializer.remove(weight)
    projection = embedding.projection[list(columns)]
    if columns:
        body.initializer.append(numpy_helper.from_array(projection, PROJECTION))
    table = INPUTS if any(value.name == "mask" for value in body.input) else EVALUATOR_INPUTS
    positions = {d.dim_value for v in body.output for d in v.type.tensor_type.shape.dim[1:2]}
    fixed = {"F": len(columns), "D": width, "K": max(positions)}
    del body.input[:]
    body.input.extend(infos(table, fixed))
    onnx.checker.check_model(graph, full_check=True)
    return graph


def read_rows(nodes: Nodes, has_columns: bool) -> None:
    """Let the sum of token embeddings be read from `rows`.

    Raises SplitError if a node of the embedding is missing.
    """
    (gather,) = one_of(nodes, "Gather", TABLE)
    (total,) = one_of(nodes, "ReduceSum", gather.output[0])
    (joined,) = one_of(nodes, "Add", total.output[0])
    (product,) = one_of(nodes, "MatMul", PROJECTION)
    for index, name in enumerate(joined.input):
        if name == total.output[0]:
            joined.input[index] = "rows"
    for node in (gather, total):
        nodes.remove(node)
    if has_columns:
        return
    (biased,) = one_of(nodes, "Add", product.output[0])
    bias = next(name for name in biased.input if name != product.output[0])
    joined.input[list(joined.input).index(biased.output[0])] = bias
    for node in (product, biased):
        nodes.remove(node)


def one_of(nodes: Nodes, kind: str, name: str) -> list[onnx.NodeProto]:
    """Return the only node of a kind that reads a value. Raises SplitError for none or several."""
    matching = [node for node in nodes if node.op_type == kind and name in node.input]
    if len(matching) != 1:
        raise SplitError(f"{kind} of {name!r}: must be one node, got {len(matching)}")
    return matching
