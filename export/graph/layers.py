"""Emit the layers that generator and evaluator share as ONNX nodes (model.network.layers).

Axes: B lists (of the evaluator: slates), R slates, N candidates, L items, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from export.graph.graph import Graph
from model.network.layers import MASKED, Attention, Block, CandidateEmbedding


def dense(g: Graph, name: str, weight: Tensor, bias: Tensor | None, x: str) -> str:
    """x [..., in] -> [..., out] over any leading axes; weight [out, in] as torch keeps it."""
    y = g.op("MatMul", x, g.weight(f"{name}.weight", weight.T))
    return y if bias is None else g.op("Add", y, g.weight(f"{name}.bias", bias))


def linear(g: Graph, name: str, module: nn.Module, x: str) -> str:
    """x [..., in] -> [..., out]."""
    assert isinstance(module, nn.Linear)
    return dense(g, name, module.weight, module.bias, x)


def gemm(g: Graph, name: str, weight: Tensor, bias: Tensor, x: str) -> str:
    """x [R, in] -> [R, out] in one node."""
    return g.op("Gemm", x, g.weight(f"{name}.weight", weight.T), g.weight(f"{name}.bias", bias))


def layer_norm(g: Graph, name: str, module: nn.Module, x: str) -> str:
    """Normalise x over its last axis."""
    assert isinstance(module, nn.LayerNorm)
    scale, shift = g.weight(f"{name}.weight", module.weight), g.weight(f"{name}.bias", module.bias)
    return g.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=module.eps)


def residual_gemms(g: Graph, name: str, module: nn.Sequential, norm: str, x: str) -> str:
    """x [R, D] plus the feed-forward of its norm [R, D] -> [R, D]."""
    first, last = module[0], module[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    inner = gemm(g, f"{name}.0", first.weight, first.bias, norm)
    outer = gemm(g, f"{name}.2", last.weight, last.bias, g.op("Gelu", inner))
    return g.op("Add", x, outer)


def embed(
    g: Graph,
    name: str,
    module: CandidateEmbedding,
    rows: str,
    numbers: str,
    columns: Sequence[int],
) -> str:
    """Item rows [B, N, D], numbers [B, N, F] -> [B, N, D].

    columns: those of the module that `numbers` has; the others are in the rows.
    """
    project = module.project
    if columns:
        weight = project.weight[:, list(columns)]
        x = dense(g, f"{name}.project", weight, project.bias, numbers)
        x = g.op("Add", x, rows)
    else:
        x = g.op("Add", rows, g.weight(f"{name}.project.bias", project.bias))
    x = g.op("Add", x, linear(g, f"{name}.hidden", module.hidden, g.op("Gelu", x)))
    return layer_norm(g, f"{name}.norm", module.norm, x)


def block(g: Graph, name: str, module: nn.Module, x: str, bias: str) -> str:
    """x [B, L, D], bias [B, 1, 1, L] -> [B, L, D].

    The attention is plain products: over sets as short as these the fused operators of
    onnxruntime's CPU provider are no faster.
    """
    assert isinstance(module, Block)
    attention = module.attention
    normed = layer_norm(g, f"{name}.norms.0", module.norms[0], x)
    packed = dense(g, f"{name}.query_key_value", *packed_projections(attention, True), normed)
    if attention.heads == 1:
        q, k, v = g.ops("Split", packed, outputs=3, axis=2, num_outputs=3)
        bias = g.op("Squeeze", bias, g.constant([1]))
        scores = g.op("Add", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1])), bias)
        x = g.op("Add", x, g.op("MatMul", g.op("Softmax", scores), v))
    else:
        heads = g.op("Reshape", packed, g.constant([0, 0, 3 * attention.heads, -1]))
        heads = g.op("Transpose", heads, perm=[0, 2, 1, 3])
        q, k, v = g.ops("Split", heads, outputs=3, axis=1, num_outputs=3)
        scores = g.op("Add", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), bias)
        mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores), v), perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", mixed, g.constant([0, 0, -1]))
        x = g.op("Add", x, linear(g, f"{name}.output", attention.output, mixed))
    normed = layer_norm(g, f"{name}.norms.1", module.norms[1], x)
    inner = linear(g, f"{name}.feed_forward.0", module.feed_forward[0], normed)
    outer = linear(g, f"{name}.feed_forward.2", module.feed_forward[2], g.op("Gelu", inner))
    return g.op("Add", x, outer)


def packed_projections(attention: Attention, scaled: bool) -> tuple[Tensor, Tensor]:
    """Return weight [3 D, D] and bias [3 D] of query, key and value.

    With one head the value comes out projected: weights sum to one, so W (sum w v) + b is the sum
    of w (W v + b). scaled: fold the division of the scores into the query.
    """
    (query, shift), (key, key_bias), (value, value_bias) = projections(attention)
    scale = (query.shape[0] // attention.heads) ** -0.5 if scaled else 1.0
    if attention.heads == 1:
        value, value_bias = through_output(attention, value, value_bias)
    weight = torch.cat([query * scale, key, value])
    return weight, torch.cat([shift * scale, key_bias, value_bias])


def projections(attention: Attention) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of query, key and value, in float64."""
    key, value = attention.key_value.weight.chunk(2)
    key_bias, value_bias = attention.key_value.bias.chunk(2)
    pairs = ((attention.query.weight, attention.query.bias), (key, key_bias), (value, value_bias))
    return [(weight.double(), bias.double()) for weight, bias in pairs]


def through_output(attention: Attention, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the value projection followed by the output projection."""
    weight, shift = attention.output.weight.double(), attention.output.bias.double()
    return weight @ value, weight @ bias + shift


def bias_of(g: Graph, mask: str) -> str:
    """bool [..., N] -> float: 0 where true, else MASKED."""
    return g.op("Where", mask, g.number(0.0), g.number(MASKED))


def merge_heads(g: Graph, name: str, module: Attention, mixed: str) -> str:
    """Outputs of the heads [R, H, 1, D / H] -> [R, D] through the output projection."""
    flat = g.op("Reshape", mixed, g.constant([0, -1]))
    if module.heads == 1:  # the values are projected already
        return flat
    return gemm(g, name, module.output.weight, module.output.bias, flat)


def gru_weights(g: Graph, name: str, *parameters: Tensor | nn.Module) -> list[str]:
    """Enter a GRU's weights and return the names of ONNX's inputs W, R and B.

    W [1, 3 D, D] is of the input, R [1, 3 D, D] of the state, B [1, 6 D] both biases in this order.
    parameters: torch's weight_ih, weight_hh, bias_ih and bias_hh.
    """
    w, r, *biases = (to_onnx_gate_order(parameter) for parameter in parameters)
    tensors = {"w": w[None], "r": r[None], "b": torch.cat(biases)[None]}
    return [g.weight(f"{name}.{letter}", tensor) for letter, tensor in tensors.items()]


def to_onnx_gate_order(parameter: Tensor | nn.Module) -> Tensor:
    """Reorder the gates of a GRU: torch has reset, update, new; ONNX has update, reset, new."""
    assert isinstance(parameter, Tensor)
    reset, update, new = parameter.chunk(3)
    return torch.cat([update, reset, new])
