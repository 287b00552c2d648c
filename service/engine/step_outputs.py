"""Add the logits of every reasoning state to the outputs of a static graph.

The static form computes each state outside of any branch, so its bundle needs no other graph: the
states are named as outputs in the bytes that are loaded, and the file stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from service.engine.initialisers import BYTES, GRAPH, NODE, parts

NODE_OUTPUT, GRAPH_OUTPUT, INFO_NAME = 2, 12, 1  # of NodeProto, GraphProto and ValueInfoProto
# Of the choice at a position, before any step and after step s (export.graph.compose).
LOGITS = re.compile(r"p(\d+)\.(?:s(\d+)\.)?choose\.logits\.\d+")


def state_names(model: bytes, positions: int, budget: int) -> list[str]:
    """Return the names of the logits of all states, position by position: K * (1 + S) of them.

    Args:
        model: an ONNX file in the static form.
        positions: K of the graph.
        budget: S, the steps per position that it holds.

    Raises ValueError for a malformed file, and unless it has exactly these states.
    """
    names: dict[tuple[int, int], str] = {}
    for graph in parts(memoryview(model), GRAPH):
        for node in parts(graph, NODE):
            for output in parts(node, NODE_OUTPUT):
                name = bytes(output).decode()
                match = LOGITS.fullmatch(name)
                if match is not None:
                    state = 0 if match[2] is None else 1 + int(match[2])
                    names[int(match[1]), state] = name
    expected = [(place, state) for place in range(positions) for state in range(budget + 1)]
    if sorted(names) != expected:
        raise ValueError(
            f"{len(names)} states of reasoning, expected those of {positions} positions with "
            f"{budget} steps"
        )
    return [names[each] for each in expected]


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """Return an ONNX file with further outputs, whose types onnxruntime infers.

    Parsers merge a message that occurs twice, so the outputs are appended as a second graph.
    """
    infos = (field(GRAPH_OUTPUT, field(INFO_NAME, name.encode())) for name in names)
    return model + field(GRAPH, b"".join(infos))


def field(number: int, content: bytes) -> bytes:
    """Encode one field of bytes of a protobuf message; number: below 16."""
    length, rest = bytearray(), len(content)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return bytes([number << 3 | BYTES]) + bytes(length) + content
