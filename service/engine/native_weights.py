"""Fold the weights of exported graphs into the arrays that the native loop reads.

The native loop attends to candidates as they are: a projection of keys is multiplied into the query
that meets them, and one of values into the output. Products are made in float64 once, at load.

Names of weights are those of export/graph/lower.py. Order of weights is that of `eglr_model::read`
and `eglr_evaluator::read` in native/src/model.cc. D is the width, K the positions, S the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.contract import Floats
from service.engine.initialisers import Initialisers

Doubles = npt.NDArray[np.float64]
TRANSFORMER, GRU, POINTER = range(3)  # eglr_host in native/src/api.h
LANE_MULTIPLE = 16  # of D


class UnsupportedError(ValueError):
    """A graph that the native loop cannot run; the message says why."""


@dataclass(frozen=True)
class GeneratorWeights:
    """A generator for the native loop; table float32 [V, D] is of a bundle of contract 2."""

    host: int
    width: int
    numbers: int
    blocks: int
    positions: int
    budget: int
    weights: Floats
    table: Floats | None


@dataclass(frozen=True)
class EvaluatorWeights:
    """An evaluator for the native loop; table as in `GeneratorWeights`."""

    width: int
    numbers: int
    blocks: int
    positions: int
    heads: int
    weights: Floats
    table: Floats | None


class Reader:
    """Takes weights by name, and refuses graphs that have others."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._weights, self._parts = weights, list[Doubles]()
        self._unread = set(weights)

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def get(self, name: str, *shape: int) -> Doubles:
        """Return a weight in float64. Raises UnsupportedError unless it has the shape."""
        weight = self._weights.get(name)
        if weight is None:
            raise UnsupportedError(f"weight {name!r}: the graph has none")
        if weight.shape != shape:
            raise UnsupportedError(f"weight {name!r}: shape must be {shape}, got {weight.shape}")
        self._unread.discard(name)
        return weight.astype(np.float64)

    def table(self, width: int) -> Floats | None:
        """Return the embeddings of tokens, which only graphs of contract 2 hold."""
        table = self._weights.get("embed.table")
        if table is None:
            return None
        self._unread.discard("embed.table")
        if table.ndim != 2 or table.shape[1] != width:
            raise UnsupportedError(f"weight 'embed.table': shape is {table.shape}")
        return table

    def add(self, *parts: Doubles) -> None:
        """Append folded weights to the array."""
        self._parts.extend(parts)

    def layer(self, name: str, depth: int, wide: int) -> None:
        """Append weight [depth, wide] and bias of a dense layer."""
        self.add(self.get(f"{name}.weight", depth, wide), self.get(f"{name}.bias", wide))

    def norm(self, name: str, width: int) -> None:
        """Append scale and shift of a layer norm."""
        self.add(self.get(f"{name}.weight", width), self.get(f"{name}.bias", width))

    def finish(self) -> Floats:
        """Return the array. Raises UnsupportedError for weights that nothing read."""
        if self._unread:
            raise UnsupportedError(f"weights {sorted(self._unread)}: not known")
        flat = np.concatenate([part.ravel() for part in self._parts])
        return flat.astype(np.float32)


def generator_weights(initialisers: Initialisers, positions: int, budget: int) -> GeneratorWeights:
    """Fold the weights of a generator. Raises UnsupportedError."""
    reader = Reader(initialisers.weights)
    width, numbers, table = embedding(reader)
    blocks = count_blocks(reader)
    for number in range(blocks):
        name = f"blocks.{number}"
        if f"{name}.output.weight" in reader:
            raise UnsupportedError("the generator has several heads; only one is supported")
        reader.norm(f"{name}.norms.0", width)
        reader.add(*query_and_value(reader, f"{name}.query_key_value", width, 1.0))
        feed_forward(reader, name, width)
    reader.norm("encoded_norm", width)
    reader.add(reader.get("start_token", width))
    reader.add(*(reader.get(f"place.{place}", width) for place in range(positions - 1)))
    reader.add(*(reader.get(f"thought.{step}", width) for step in range(budget)))
    reader.layer("item_token", width, width)
    reader.add(reader.get("reason_token.weight", width, width), np.zeros(width))
    host = add_host(reader, width)
    if budget:
        reader.layer("refine", width, width)
    else:
        reader.add(np.zeros(width * width + width))
    keys = reader.get("pointer.keys.weight", width, width)
    reader.add(keys.T, reader.get("pointer.prior.weight", width, 1))
    reader.add(reader.get("pointer.keys.bias", width), reader.get("pointer.prior.bias", 1))
    flat = reader.finish()
    return GeneratorWeights(host, width, numbers, blocks, positions, budget, flat, table)


def evaluator_weights(initialisers: Initialisers, positions: int) -> EvaluatorWeights:
    """Fold the weights of an evaluator. Raises UnsupportedError."""
    reader = Reader(initialisers.weights)
    if "recurrent.w" in reader:
        raise UnsupportedError("the evaluator has a GRU")
    width, numbers, table = embedding(reader)
    reader.add(reader.get("position", positions, width))
    has_discount = "discount" in reader
    reader.add(reader.get("discount", positions) if has_discount else np.ones(positions))
    blocks, heads = count_blocks(reader), heads_of(initialisers, reader)
    for number in range(blocks):
        name = f"blocks.{number}"
        reader.norm(f"{name}.norms.0", width)
        reader.layer(f"{name}.query_key_value", width, 3 * width)
        if heads > 1:
            reader.layer(f"{name}.output", width, width)
        else:  # the graph multiplies the output projection into the values
            reader.add(np.eye(width), np.zeros(width))
        feed_forward(reader, name, width)
    reader.norm("norm", width)
    reader.add(reader.get("head.weight", width, 1), reader.get("head.bias", 1))
    return EvaluatorWeights(width, numbers, blocks, positions, heads, reader.finish(), table)


def embedding(reader: Reader) -> tuple[int, int, Floats | None]:
    """Append the embedding; return D, F and the table of tokens."""
    weights: Any = reader._weights
    if "embed.hidden.bias" not in reader:
        raise UnsupportedError("weight 'embed.hidden.bias': the graph has none")
    width = weights["embed.hidden.bias"].size
    if width % LANE_MULTIPLE:
        raise UnsupportedError(f"width must be a multiple of {LANE_MULTIPLE}, got {width}")
    numbers = 0
    if "embed.project.weight" in reader:
        numbers = len(weights["embed.project.weight"])
        reader.add(reader.get("embed.project.weight", numbers, width))
    reader.add(reader.get("embed.project.bias", width))
    reader.layer("embed.hidden", width, width)
    reader.norm("embed.norm", width)
    return width, numbers, reader.table(width)


def count_blocks(reader: Reader) -> int:
    """Return the number of blocks."""
    number = 0
    while f"blocks.{number}.query_key_value.weight" in reader:
        number += 1
    return number


def heads_of(initialisers: Initialisers, reader: Reader) -> int:
    """Return the heads of an evaluator's blocks, from the shape [0, 0, 3 H, -1] of projections."""
    if "blocks.0.output.weight" not in reader:
        return 1
    counts = {
        shape[2] // 3
        for shape in initialisers.constants
        if len(shape) == 4 and shape[:2] == [0, 0] and shape[3] == -1 and shape[2] % 3 == 0
    }
    if len(counts) != 1:
        raise UnsupportedError(f"the evaluator's heads must be one number, got {sorted(counts)}")
    return counts.pop()


def feed_forward(reader: Reader, name: str, width: int) -> None:
    """Append the feed-forward layers of a block or host, with their norm."""
    reader.norm(f"{name}.norms.1", width)
    reader.layer(f"{name}.feed_forward.0", width, 2 * width)
    reader.layer(f"{name}.feed_forward.2", 2 * width, width)


def query_and_value(reader: Reader, name: str, width: int, scale: float) -> tuple[Doubles, Doubles]:
    """Return weight [D, 2 D] and bias [2 D] of a query that meets inputs of keys, and of values.

    (x Wq + bq) . (y Wk + bk) = (x Wq Wk' + bq Wk') . y + a term that all y share.
    """
    weight = reader.get(f"{name}.weight", width, 3 * width)
    bias = reader.get(f"{name}.bias", 3 * width)
    query, key, value = np.split(weight, 3, axis=1)
    of_query, _, of_value = np.split(bias, 3)
    joined = np.concatenate([query @ key.T * scale, value], axis=1)
    return joined, np.concatenate([of_query @ key.T * scale, of_value])


def add_host(reader: Reader, width: int) -> int:
    """Append the weights of the host's step; return its kind."""
    host = TRANSFORMER if "host.own.query_key_value.weight" in reader else GRU
    reader.norm("host.norms.0", width)
    if host == TRANSFORMER:
        if "host.own.output.weight" in reader:
            raise UnsupportedError("the host has several heads; only one is supported")
        joined, bias = query_and_value(reader, "host.own.query_key_value", width, width**-0.5)
        for part in (slice(width), slice(width, None)):  # two layers: the value comes later
            reader.add(joined[:, part], bias[part])
    else:
        bias = reader.get("host.cell.b", 1, 6 * width)[0]
        for letter, part in (("w", bias[: 3 * width]), ("r", bias[3 * width :])):
            reader.add(reader.get(f"host.cell.{letter}", 1, 3 * width, width)[0].T, part)
    if "host.glimpse.norm.weight" in reader:
        if "host.glimpse.query.weight" in reader:
            raise UnsupportedError("the host has several heads; only one is supported")
        reader.norm("host.glimpse.norm", width)
        keys = reader.get("host.glimpse.memory_keys.weight", width, width)
        reader.get("host.glimpse.memory_keys.bias", width)  # shared by all candidates: no effect
        reader.add(keys.T * width**-0.5, reader.get("host.glimpse.prior.weight", width, 1))
        reader.layer("host.glimpse.memory_values", width, width)
    elif host == GRU:
        host = POINTER
    else:
        raise UnsupportedError("a transformer host without a glimpse")
    feed_forward(reader, "host", width)
    reader.norm("host.norms.2", width)
    return host
