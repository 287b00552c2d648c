"""Run on CUDA: inputs and outputs stay bound to fixed buffers, with one captured graph per bucket.

A CUDA graph replays the kernels of one shape from the same addresses, so feeds are padded to the
next bucket of lists, slates and candidates, and every bucket owns its buffers. Captured graphs are
never freed: the buckets bound their number, and larger shapes are not captured. The static form is
captured, since a captured graph may not branch; a run therefore takes as long at every budget.
Capturing takes the time of about ten runs, so warm-up captures the buckets of greedy slates.

onnxruntime keeps captured graphs by thread, and a capture fails if another thread allocates or
copies meanwhile. Therefore one thread of the process makes every call that uses a GPU: `on_device`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort

from service.engine.buckets import BATCHES, SIZES, bucket
from service.engine.contract import INPUTS, OLD_LIST_INPUTS, OUTPUTS

T = TypeVar("T")
Array = np.ndarray[Any, Any]
ARENA_BYTES = 2 << 30  # maximum memory of a session's arena, which never shrinks

_device_thread = ThreadPoolExecutor(1, thread_name_prefix="cuda")


def on_device(call: Callable[[], T]) -> T:
    """Make a call in the one thread that uses a GPU; wait for its result."""
    return _device_thread.submit(call).result()


def warm_up_sizes(lists: int, candidates: int) -> list[tuple[int, int]]:
    """Return (lists, candidates) of one run in each bucket up to these, for greedy slates."""
    return [
        (min(batch, lists), min(size, candidates))
        for size in SIZES[: bisect_left(SIZES, candidates) + 1]
        for batch in BATCHES[: bisect_left(BATCHES, lists) + 1]
    ]


@dataclass(frozen=True)
class Shape:
    """A bucket: lists B, slates R, candidates N; `sampled` if noise has an entry per candidate."""

    lists: int
    slates: int
    size: int
    sampled: bool


def shape_of(feeds: Mapping[str, Array]) -> Shape:
    """Return the bucket that these feeds are padded to."""
    lists, size = feeds["mask"].shape
    return Shape(
        bucket(lists, BATCHES),
        bucket(len(feeds["list"]), BATCHES),
        bucket(size, SIZES),
        feeds["noise"].shape[2] > 1,
    )


def pad(feeds: Mapping[str, Array], shape: Shape, slate_length: int) -> dict[str, Array]:
    """Pad feeds to the shape of a bucket.

    Padding slates are of list 0 and have no position to fill; padding candidates are masked and
    have no quota; padding lists have one candidate.
    """
    axes = {"B": shape.lists, "R": shape.slates, "N": shape.size, "K": slate_length}
    axes["G"] = shape.size if shape.sampled else 1
    padded = {}
    for name, feed in feeds.items():
        dtype, names = INPUTS.get(name) or OLD_LIST_INPUTS[name]
        dims = tuple(axes.get(axis, feed.shape[i]) for i, axis in enumerate(names))
        fill = {"pinned": -1, "group": -1, "reason_temperature": 1, "recommend_temperature": 1}
        array = np.full(dims, fill.get(name, 0), dtype)
        array[tuple(slice(0, n) for n in feed.shape)] = feed
        padded[name] = array
    padded["mask"][len(feeds["mask"]) :, 0] = True
    return padded


class CudaRunner:
    """Replaces `InferenceSession.run` by runs over bound buffers, in the device's thread.

    device: the memory of the buffers; "cpu" runs the same code without capturing, for tests.
    """

    def __init__(
        self, session: ort.InferenceSession, slate_length: int, device: str = "cuda"
    ) -> None:
        self._session, self._slate_length, self._device = session, slate_length, device
        self._buffers: dict[Shape, _Buffers] = {}

    @staticmethod
    def providers(capture: bool) -> list[Any]:
        """Return the providers of a session: CUDA with a bounded arena, and no fallback.

        capture: capture CUDA graphs; then the session must run through a CudaRunner.
        """
        options = {
            "enable_cuda_graph": str(int(capture)),
            "gpu_mem_limit": str(ARENA_BYTES),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",  # 10 bits of mantissa change slates
        }
        return [("CUDAExecutionProvider", options)]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs for these feeds, without the padding of the bucket."""
        shape = shape_of(feeds)
        bucketed = pad(feeds, shape, self._slate_length)
        slates, size = len(feeds["list"]), feeds["mask"].shape[1]

        def run() -> dict[str, Array]:
            if shape not in self._buffers:
                self._buffers[shape] = _Buffers(self, shape, bucketed)
            buffers = self._buffers[shape]
            buffers.run(bucketed)
            return {name: buffers.outputs[name].numpy()[:slates] for name in outputs}

        arrays = on_device(run)
        return [a[:, :, :size] if name == "logits" else a for name, a in arrays.items()]

    @property
    def buckets(self) -> list[Shape]:
        """Shapes that have buffers, and on CUDA a captured graph."""
        return list(self._buffers)


class _Buffers:
    """The buffers of one bucket, and the number of its captured graph."""

    def __init__(self, runner: CudaRunner, shape: Shape, first: Mapping[str, Array]) -> None:
        """Bind buffers to the shape of a bucket; first: feeds of that shape."""
        self._session = runner._session
        self._options = ort.RunOptions()
        within = max(shape.lists, shape.slates) <= BATCHES[-1] and shape.size <= SIZES[-1]
        number = len(runner._buffers) + 1 if runner._device == "cuda" and within else -1
        self._options.add_run_config_entry("gpu_graph_id", str(number))
        self._binding = self._session.io_binding()
        self.inputs, self.outputs = {}, {}
        for name, array in first.items():
            value = ort.OrtValue.ortvalue_from_numpy(array, runner._device, 0)
            self.inputs[name] = value
            self._binding.bind_ortvalue_input(name, value)
        axes = {"R": shape.slates, "N": shape.size, "K": runner._slate_length}
        for name, (dtype, names) in OUTPUTS.items():
            dims = [axes[axis] for axis in names]
            value = ort.OrtValue.ortvalue_from_shape_and_type(dims, dtype, runner._device, 0)
            self.outputs[name] = value
            self._binding.bind_ortvalue_output(name, value)

    def run(self, feeds: Mapping[str, Array]) -> None:
        """Copy the feeds into the buffers and run over them."""
        for name, value in self.inputs.items():
            value.update_inplace(feeds[name])
        self._session.run_with_iobinding(self._binding, self._options)
