"""Lower torch modules to ONNX nodes: the same arithmetic in few, large operators.

Values that depend on the request alone are computed once, outside the loop. Two linear maps in a
row become one product, and the projections of an attention one matrix. Dense layers inside the loop
are Gemm on [R, D], whose bias needs no node of its own. An attention of one head folds further: its
output projection goes into the values, and over a list its query projection into the keys. Every
step is compared with its module before a bundle is written (export.verify).

Axes: B lists, R slates, N candidates, D width, H heads, L tokens read so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from onnx import TensorProto

from export.graph.graph import Graph, Values
from export.graph.layers import (
    bias_of,
    block,
    dense,
    embed,
    gemm,
    gru_weights,
    layer_norm,
    linear,
    merge_heads,
    packed_projections,
    projections,
    residual_gemms,
    through_output,
)
from model.network.evaluator import Evaluator, discount
from model.network.generator import Generator
from model.network.hosts import HOSTS, Glimpse, GruHost, Host, PointerHost, TransformerHost
from service.engine.contract import EVALUATOR_INPUTS


class ComposeError(ValueError):
    """The generator has no served form."""


class Lowering(Protocol):
    """Emits the ONNX operators of one class of hosts; made with the graph and the host.

    It computes what the host's torch methods compute (model.network.hosts.Host), in names of
    tensors instead of tensors. Four things differ from torch:

    - There is no `start`: the first call of `advance` reads the start token with state {}, and
      returns the state after it.
    - The flag `read` has four axes, bool [R, 1, 1, 1], where torch's `active` is [R]. The start
      token and the tokens of items come with a flag that is true in every row, because rows past
      their slate are blanked at the end; only reasoning tokens skip rows.
    - The state leaves out the hidden state, which `advance` returns beside it. The caller masks
      the hidden state (`StepKinds.reason`); `advance` masks its own state, so that a row which
      does not read a token keeps no trace of it.
    - `state_types` and `memory_parts` name the tensors, which become inputs and outputs of the
      ONNX functions.
    """

    @property
    def memory_parts(self) -> tuple[str, ...]:
        """Names of the tensors that `memory` returns and `advance` reads."""

    @property
    def state_types(self) -> Mapping[str, int]:
        """Names and ONNX element types of the state's tensors."""

    def memory(self, candidates: str, bias: str) -> Values:
        """Project candidates [B, N, D] once per list; bias [B, 1, 1, N] masks padding.

        Every tensor must have B as first axis: each is gathered to one row per slate.
        """

    def advance(self, x: str, read: str, memory: Values, state: Values) -> tuple[Values, str]:
        """Read token x [R, D] in rows where `read` is true -> state, hidden [R, D].

        memory: the tensors of `memory_parts` with R rows, perhaps among others. state: those of
        `state_types`, or {} for the start token.
        """


class GlimpseLowering:
    """Lowers Glimpse, cross-attention to candidates; keys and values are computed once per list."""

    memory_parts = ("memory_keys", "memory_values", "memory_bias")

    def __init__(self, g: Graph, name: str, module: Glimpse) -> None:
        self.g, self.name, self.module = g, name, module

    def memory(self, candidates: str, bias: str) -> Values:
        """candidates [B, N, D], bias [B, 1, 1, N] -> keys, values [B, H, N, D / H], bias."""
        g, cross = self.g, self.module.cross
        (query, shift), key, value = projections(cross)
        if cross.heads == 1:
            # (Wq x + bq) . (Wk c + bk) = x . Wq'(Wk c + bk) + bq . Wk c + a term that all c share
            scale = query.shape[0] ** -0.5
            terms = dense(g, f"{self.name}.prior", shift[None] @ key[0] * scale, None, candidates)
            terms = g.op("Unsqueeze", g.op("Transpose", terms, perm=[0, 2, 1]), g.constant([1]))
            bias = g.op("Add", bias, terms)
            key, value = (query.T @ key[0], query.T @ key[1]), through_output(cross, *value)
        memory = {"memory_bias": bias}
        for part, (weight, offset) in zip(self.memory_parts[:2], (key, value), strict=True):
            x = dense(g, f"{self.name}.{part}", weight, offset, candidates)
            if cross.heads == 1:
                memory[part] = g.op("Unsqueeze", x, g.constant([1]))
            else:
                x = g.op("Reshape", x, g.constant([0, 0, cross.heads, -1]))
                memory[part] = g.op("Transpose", x, perm=[0, 2, 1, 3])
        return memory

    def add(self, memory: Values, x: str) -> str:
        """x [R, D] plus the attention's output [R, D] -> [R, D]."""
        g, cross = self.g, self.module.cross
        q = layer_norm(g, f"{self.name}.norm", self.module.norm, x)
        if cross.heads > 1:
            q = gemm(g, f"{self.name}.query", cross.query.weight, cross.query.bias, q)
        q = g.op("Reshape", q, g.constant([0, cross.heads, 1, -1]))
        mixed = g.op("Attention", q, *(memory[part] for part in self.memory_parts))
        return g.op("Add", x, merge_heads(g, f"{self.name}.output", cross, mixed))


class TransformerLowering:
    """Lowers TransformerHost; the mask is false at a cache slot that a row did not read."""

    memory_parts = GlimpseLowering.memory_parts
    state_types: ClassVar[dict[str, int]] = {
        "cache_keys": TensorProto.FLOAT,
        "cache_values": TensorProto.FLOAT,
        "cache_mask": TensorProto.BOOL,
    }

    def __init__(self, g: Graph, host: TransformerHost) -> None:
        self.g, self.host = g, host
        self.glimpse = GlimpseLowering(g, "host.glimpse", host.glimpse)

    def memory(self, candidates: str, bias: str) -> Values:
        """Return the glimpse's memory."""
        return self.glimpse.memory(candidates, bias)

    def advance(self, x: str, read: str, memory: Values, state: Values) -> tuple[Values, str]:
        """Read token x [R, D] in rows where `read` bool [R, 1, 1, 1] -> state, hidden [R, D]."""
        g, host, attention = self.g, self.host, self.host.self_attention
        normed = layer_norm(g, "host.norms.0", host.norms[0], x)
        # `own` is the self-attention's name in version 0.1.0. Graphs keep it: a name in a graph is
        # data, and another one would change the bytes of every bundle.
        packed = gemm(g, "host.own.query_key_value", *packed_projections(attention, False), normed)
        heads = g.op("Reshape", packed, g.constant([0, 3 * attention.heads, 1, -1]))
        q, k, v = g.ops("Split", heads, outputs=3, axis=1, num_outputs=3)
        mask = read
        if state:
            mask = g.op("Concat", state["cache_mask"], read, axis=3)
            mixed, k, v = g.ops(
                "Attention", q, k, v, mask, state["cache_keys"], state["cache_values"], outputs=3
            )
        else:
            mixed = v  # the only token sees itself
        x = g.op("Add", x, merge_heads(g, "host.own.output", attention, mixed))
        x = self.glimpse.add(memory, x)
        normed = layer_norm(g, "host.norms.1", host.norms[1], x)
        x = residual_gemms(g, "host.feed_forward", host.feed_forward, normed, x)
        hidden = layer_norm(g, "host.norms.2", host.norms[2], x)
        return {"cache_keys": k, "cache_values": v, "cache_mask": mask}, hidden


class RecurrentLowering:
    """Lowers the two hosts with a GRU cell, GruHost and PointerHost."""

    state_types: ClassVar[dict[str, int]] = {"recurrent": TensorProto.FLOAT}

    def __init__(self, g: Graph, host: GruHost | PointerHost) -> None:
        self.g, self.host = g, host
        self.glimpse = (
            GlimpseLowering(g, "host.glimpse", host.glimpse) if isinstance(host, GruHost) else None
        )
        self.memory_parts = self.glimpse.memory_parts if self.glimpse else ()

    def memory(self, candidates: str, bias: str) -> Values:
        """Return the glimpse's memory; a host without a glimpse has none."""
        return self.glimpse.memory(candidates, bias) if self.glimpse else {}

    def advance(self, x: str, read: str, memory: Values, state: Values) -> tuple[Values, str]:
        """Read token x [R, D] in rows where `read` bool [R, 1, 1, 1] -> state, hidden [R, D]."""
        g, host, cell = self.g, self.host, self.host.cell
        width = cell.hidden_size
        normed = layer_norm(g, "host.norms.0", host.norms[0], x)
        one = g.constant([0])
        initial = (g.op("Unsqueeze", state["recurrent"], one),) if state else ()
        _, new = g.ops(
            "GRU", g.op("Unsqueeze", normed, one),
            *gru_weights(
                g, "host.cell", cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
            ),
            *(("", *initial) if initial else ()),
            outputs=2, hidden_size=width, linear_before_reset=1,
        )  # fmt: skip
        new = g.op("Squeeze", new, one)
        x = g.op("Add", x, new)
        if state:
            row = g.op("Squeeze", read, g.constant([2, 3]))
            new = g.op("Where", row, new, state["recurrent"])
        if self.glimpse:
            x = self.glimpse.add(memory, x)
        normed = layer_norm(g, "host.norms.1", host.norms[1], x)
        x = residual_gemms(g, "host.feed_forward", host.feed_forward, normed, x)
        return {"recurrent": new}, layer_norm(g, "host.norms.2", host.norms[2], x)


# Class of a host -> its lowering; a host without one trains, but cannot be exported.
LOWERINGS: dict[type, Callable[[Graph, Any], Lowering]] = {
    TransformerHost: TransformerLowering,
    GruHost: RecurrentLowering,
    PointerHost: RecurrentLowering,
}


def lowering_of(g: Graph, host: Host) -> Lowering:
    """Return the lowering of a host into a graph. Raises ComposeError for a host without one."""
    lowering = LOWERINGS.get(type(host))
    if lowering is None:
        names = [name for name, host_type in HOSTS.items() if host_type is type(host)]
        raise ComposeError(
            f"host {(names or [type(host).__name__])[0]}: has no lowering; add it to LOWERINGS in "
            "export/graph/lower.py"
        )
    return lowering(g, host)


def encode(
    g: Graph,
    generator: Generator,
    columns: Sequence[int],
    host: Lowering,
    rows: str,
    numbers: str,
    mask: str,
) -> Values:
    """Return everything that depends on the list alone, and the host's memory.

    keys [B, 1, D, N] and prior [B, 1, 1, N]: logits are hidden . keys + prior, because the query
    projection is multiplied into the keys. thoughts [B, 1, N, D]: the reasoning token's projection
    of every candidate, which commutes with averaging them. items [B * N, D]: item tokens.
    """
    x = embed(g, "embed", generator.embed, rows, numbers, columns)
    bias = bias_of(g, g.op("Unsqueeze", mask, g.constant([1, 2])))
    for number, module in enumerate(generator.blocks):
        x = block(g, f"blocks.{number}", module, x, bias)
    candidates = layer_norm(g, "encoded_norm", generator.encoded_norm, x)
    query, key, prior = generator.pointer_query, generator.pointer_key, generator.prior
    width = query.in_features
    # q(h) . k(c) / sqrt(D) = h . (Wq'Wk c + Wq'bk) / sqrt(D) + (bq'Wk c + bq'bk) / sqrt(D)
    wq, bq, wk, bk = (p.double() for p in (query.weight, query.bias, key.weight, key.bias))
    scale = width**-0.5
    keys = dense(g, "pointer.keys", wq.T @ wk * scale, wq.T @ bk * scale, candidates)
    weight = bq[None] @ wk * scale + prior.weight.double()
    prior_bias = (bq @ bk * scale + prior.bias.double()).view(1)
    priors = dense(g, "pointer.prior", weight, prior_bias, candidates)
    item = linear(g, "item_token", generator.item_token, candidates)
    thoughts = dense(g, "reason_token", generator.reason_token.weight, None, candidates)
    second = g.constant([1])
    flipped = (
        g.op("Unsqueeze", g.op("Transpose", x, perm=[0, 2, 1]), second) for x in (keys, priors)
    )
    return {
        "keys": next(flipped),
        "prior": g.op("Add", next(flipped), bias),
        "thoughts": g.op("Unsqueeze", thoughts, second),
        "items": g.op("Reshape", item, g.constant([-1, width])),
        **host.memory(candidates, bias),
    }


def evaluator_likes(
    g: Graph,
    evaluator: Evaluator,
    columns: Sequence[int],
    slate_length: int,
    inputs: Mapping[str, str],
) -> tuple[str, str]:
    """Return likes [R, K] and utility [R] of slates; `inputs` names those of the contract."""
    rows, numbers, lists, slate = (inputs[name] for name in EVALUATOR_INPUTS)
    x = embed(g, "embed", evaluator.embed, rows, numbers, columns)
    width = evaluator.position.embedding_dim
    size = g.op("Shape", rows, start=1, end=2)
    offset = g.op("Unsqueeze", g.op("Mul", lists, size), g.constant([1]))
    index = g.op("Add", g.op("Max", slate, g.constant(0)), offset)
    x = g.op("Gather", g.op("Reshape", x, g.constant([-1, width])), index)
    places = torch.arange(slate_length).clamp(max=evaluator.position.num_embeddings - 1)
    x = g.op("Add", x, g.weight("position", evaluator.position.weight[places]))
    mask = g.op("GreaterOrEqual", slate, g.constant(0))
    if evaluator.recurrent is not None:
        gru = evaluator.recurrent
        y, _ = g.ops(
            "GRU", g.op("Transpose", x, perm=[1, 0, 2]),
            *gru_weights(
                g, "recurrent",
                gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0,
            ),
            outputs=2, hidden_size=gru.hidden_size, linear_before_reset=1,
        )  # fmt: skip
        y = g.op("Transpose", g.op("Squeeze", y, g.constant([1])), perm=[1, 0, 2])
        x = g.op("Add", x, y)
    wide = g.op("Unsqueeze", bias_of(g, mask), g.constant([1, 2]))
    for number, module in enumerate(evaluator.blocks):
        x = block(g, f"blocks.{number}", module, x, wide)
    logit = linear(g, "head", evaluator.head, layer_norm(g, "norm", evaluator.norm, x))
    held = g.op("Cast", mask, to=TensorProto.FLOAT)
    likes = g.op("Mul", g.op("Sigmoid", g.op("Squeeze", logit, g.constant([2]))), held)
    weight = held
    if evaluator.discounted:
        weight = g.op("Mul", held, g.weight("discount", discount(slate_length)))
    axis = g.constant([1])
    value = g.op("ReduceSum", g.op("Mul", likes, weight), axis, keepdims=0)
    return likes, g.op("Div", value, g.op("ReduceSum", weight, axis, keepdims=0))
