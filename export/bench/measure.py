"""Random feeds, timing in turns and the arithmetic of a graph, for bench and tune."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from export.cases import EVERY_STEP, NO_STEP
from service.engine.constraints import SlateConstraints
from service.engine.rows import Row

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Size:
    """Size of a run: B lists of N candidates, the share of rows that reasons, S steps."""

    batch: int = 1
    candidates: int = 50
    budget: int = 3
    share: float = 1.0


def whole_lists(size: Size, numbers: int, tokens: int, vocabulary: int) -> dict[str, Array]:
    """Return random lists as torch reads them: all numbers, tokens and mask."""
    draw = np.random.default_rng(0)
    b, n = size.batch, size.candidates
    return {
        "numbers": draw.standard_normal((b, n, numbers)).astype(np.float32),
        "tokens": draw.integers(0, vocabulary, (b, n, tokens)),
        "mask": np.ones((b, n), np.bool_),
    }


def feeds_of(size: Size, numbers: int, width: int, positions: int) -> dict[str, Array]:
    """Return random lists as the graph's inputs; rows that reason are spread over the batch.

    Args:
        size: lists, candidates and the share that reasons.
        numbers: columns that depend on the request.
        width: that of the item rows.
        positions: K of the graph.
    """
    draw = np.random.default_rng(0)
    b, n = size.batch, size.candidates
    reasons = np.floor(np.arange(1, b + 1) * size.share) > np.floor(np.arange(b) * size.share)
    return {
        "rows": draw.standard_normal((b, n, width)).astype(np.float32),
        "numbers": draw.standard_normal((b, n, numbers)).astype(np.float32),
        "mask": np.ones((b, n), np.bool_),
        "list": np.arange(b),
        "length": np.full(b, min(positions, n)),
        "budget": np.full(b, size.budget),
        "entropy_threshold": np.where(reasons, EVERY_STEP, NO_STEP).astype(np.float32),
        "reason_temperature": np.full(b, 1.5, np.float32),
        "recommend_temperature": np.full(b, 0.7, np.float32),
        "noise": np.zeros((b, positions, 1), np.float32),
        "pinned": np.full((b, positions), -1),
        "group": np.tile(np.arange(n), (b, 1)),
        "quota": np.ones((b, n), np.float32),
    }


def rows_of(feeds: Mapping[str, Array]) -> list[Row]:
    """Return the lists of feeds_of as rows, which the native library takes in place of arrays."""
    return [
        Row(
            numbers=feeds["numbers"][number],
            tokens=np.zeros((len(feeds["numbers"][number]), 0), np.int64),
            slate_size=int(feeds["length"][number]),
            budget=int(feeds["budget"][number]),
            entropy_threshold=float(feeds["entropy_threshold"][number]),
            reason_temperature=float(feeds["reason_temperature"][number]),
            recommend_temperature=float(feeds["recommend_temperature"][number]),
            constraints=SlateConstraints(
                pinned=feeds["pinned"][number],
                group=feeds["group"][number],
                quota=feeds["quota"][number],
            ),
            rows=feeds["rows"][number],
        )
        for number in feeds["list"]
    ]


def timed(
    runs: Mapping[str, Callable[[], Any]],
    seconds: float,
    turn: float = 0.03,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time runs in turns, so that a busy moment of the machine affects all of them alike.

    A turn repeats one run for `turn` seconds, as a service does, and does not count its first,
    which finds the caches full of the other runs' data. Turns go on for about `seconds`, and until
    every run has been timed five times. Returns the seconds of each run, by `clock`.
    """
    for run in runs.values():
        run(), run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or min(map(len, times.values())) < 5:
        for name, run in runs.items():
            run()
            ends = time.perf_counter() + turn
            while True:
                start = clock()
                run()
                times[name].append(clock() - start)
                if time.perf_counter() >= ends:
                    break
    return times


def flops(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> int:
    """Count the floating-point operations of a graph's products; it may have no branches."""
    flat = onnx.inliner.inline_local_functions(model)
    for value in flat.graph.input:
        for dim, length in zip(
            value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True
        ):
            dim.dim_value = length
    flat = onnx.shape_inference.infer_shapes(flat, data_prop=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in (*flat.graph.value_info, *flat.graph.input)}  # fmt: skip
    shapes |= {w.name: list(w.dims) for w in flat.graph.initializer}
    total = 0
    for node in flat.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            total += 2 * int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]
        elif node.op_type == "Attention":
            rows, heads, queries, width = shapes[node.input[0]]
            past = shapes[node.input[4]][2] if len(node.input) > 4 else 0
            total += 4 * rows * heads * queries * width * (shapes[node.input[1]][2] + past)
        elif node.op_type == "GRU":
            _, rows, width = shapes[node.input[0]]
            total += 12 * rows * width * width
    return total


def gemm_throughput(seconds: float = 1.0) -> float:
    """Return the FLOP per second of one thread in the fastest run of a 512 x 512 x 512 product."""
    side = 512
    weight = numpy_helper.from_array(np.ones((side, side), np.float32), "w")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [side, side]) for n in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "gemm", info[:1], info[1:], initializer=[weight])
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    x = {"x": np.ones((side, side), np.float32)}
    times = timed({"gemm": lambda: session.run(None, x)}, seconds)["gemm"]
    return 2 * side**3 / min(times)


def cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the cores that this process may use: its affinity, capped by the container's quota."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(int(quota) / int(period))))


def median(times: Sequence[float]) -> float:
    """Return the median of times in seconds, in milliseconds."""
    return float(1e3 * np.median(times))
