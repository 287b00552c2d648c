"""The forms of the reasoning loop that the benchmark times, each ready to run.

Weights are random and of the configuration's shape: no figure depends on what was learnt, because
thresholds decide which rows reason.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.bench.measure import Array, Size, feeds_of, rows_of, whole_lists
from export.graph.compose import compose
from model.network.config import Config
from model.network.generator import Generator
from model.network.reasoning import EntropyGate, decode, greedy, reason_where
from service.engine.contract import OUTPUTS
from service.engine.graph import open_graph
from service.engine.initialisers import read_initialisers
from service.engine.native import NativeGenerator
from service.engine.native_library import NativeLibrary, find_library
from service.engine.native_weights import generator_weights

NAMES = list(OUTPUTS)[:5]
NUMBERS, TOKENS, VOCABULARY = 121, 21, 3000  # columns and tokens as RankLens has them
REQUEST_NUMBERS = 34  # of these columns, those that depend on the request
# onnxruntime options in which a form differs from the service, which runs "static" and "gated".
OPTIONS: dict[str, dict[str, Any]] = {
    "static": {},
    "gated, weights packed": {},
    "static, SkipLayerNormFusion on": {"disabled_optimizers": None},
    "static, memory patterns off": {"patterns": False},
}
OTHERS = (*OPTIONS, "static int8", "plain unrolled export", "torch.compile", "OpenVINO")
Run = Callable[[], Any]


class Unrolled(nn.Module):
    """The loop without branches, as torch.onnx.export and torch.compile take it."""

    def __init__(self, generator: Generator, positions: int, temperature: float) -> None:
        super().__init__()
        self.generator, self.positions, self.temperature = generator, positions, temperature

    def forward(self, numbers: Tensor, tokens: Tensor, mask: Tensor, threshold: Tensor) -> Tensor:
        """Return slates int64 [B, K]; every step is taken and masked. threshold float [B], nats."""
        generator = self.generator
        encoded = generator.encode(numbers, tokens, mask)
        choice, items = generator.begin(encoded), []
        for position in range(self.positions):
            active = torch.ones_like(threshold, dtype=torch.bool)
            for step in range(generator.reasoning.budget):
                active = active & (choice.entropy > threshold)
                choice = reason_where(generator, encoded, choice, torch.tensor(step), active)
            items.append(choice.logits.argmax(dim=-1))
            if position + 1 < self.positions:
                choice = generator.recommend(encoded, choice, items[-1], torch.tensor(position))
        return torch.stack(items, dim=1)


class Variants:
    """Builds each form once and returns calls of it, ready to be timed.

    `notes` maps a variant to a remark for the report.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.width = config, config.network.width
        self.notes: dict[str, str] = {}
        self.scratch = tempfile.TemporaryDirectory()
        self.generators: dict[tuple[int, int], Generator] = {}
        self.sessions: dict[tuple[str, int, int], ort.InferenceSession] = {}

    def generator(self, budget: int, positions: int) -> Generator:
        """Return a generator with random weights of the configured shape."""
        key = budget, positions
        if key not in self.generators:
            torch.manual_seed(0)
            reasoning = type(self.config.reasoning)(budget=budget)
            self.generators[key] = Generator(
                self.config.network, NUMBERS, VOCABULARY, positions, reasoning
            ).eval()
        return self.generators[key]

    def model(self, form: str, budget: int, positions: int) -> onnx.ModelProto:
        """Compose a form of the graph."""
        generator = self.generator(budget, positions)
        columns = range(NUMBERS - REQUEST_NUMBERS, NUMBERS)
        return compose(generator, columns, positions, gated=form.startswith("gated"))

    def session(self, form: str, budget: int, positions: int) -> ort.InferenceSession:
        """Open a form of the graph as the service does, with one thread."""
        key = form, budget, positions
        if key not in self.sessions:
            model = self.model(form, budget, positions)
            path = Path(self.scratch.name) / f"{form}-{budget}-{positions}.onnx"
            path.write_bytes(model.SerializeToString())
            if form == "static int8":
                path = quantise(path)
            self.sessions[key] = (
                open_graph(path, 1, "cpu", packed=form != "gated")
                if not OPTIONS.get(form)
                else open_with(path, **OPTIONS[form])
            )
        return self.sessions[key]

    def native(self, budget: int, positions: int) -> NativeGenerator:
        """Open the decode loop of the native library. Raises NativeError if there is none."""
        path = Path(self.scratch.name) / f"native-{budget}-{positions}.onnx"
        if not path.exists():
            path.write_bytes(self.model("static", budget, positions).SerializeToString())
        weights = generator_weights(read_initialisers(path), positions, budget)
        return NativeGenerator(NativeLibrary(find_library()), weights)

    def run(self, variant: str, size: Size, positions: int) -> Run:
        """Return one call of a variant, ready to be timed. Raises ValueError for another name."""
        feeds = feeds_of(size, REQUEST_NUMBERS, self.width, positions)
        if variant == "native":
            generator, rows = self.native(size.budget, positions), rows_of(feeds)
            return lambda: generator.run(rows)
        if variant in ("gated", "static int8", *OPTIONS):
            session = self.session(variant, size.budget, positions)
            return lambda: session.run(NAMES, feeds)
        whole = feeds | whole_lists(size, NUMBERS, TOKENS, VOCABULARY)
        if variant == "torch eager":
            return self.eager(size.budget, positions, whole)
        if variant == "plain unrolled export":
            session = self.exported(size.budget, positions)
            arrays = {name: whole[name] for name in ("numbers", "tokens", "mask")}
            arrays["threshold"] = whole["entropy_threshold"]
            return lambda: session.run(None, arrays)
        if variant == "torch.compile":
            return self.compiled(size.budget, positions, whole)
        if variant == "OpenVINO":
            request = self.openvino(size.budget, positions)
            return lambda: request.infer(feeds)
        raise ValueError(variant)

    def eager(self, budget: int, positions: int, feeds: dict[str, Array]) -> Run:
        """Return the torch loop as training runs it."""
        generator = self.generator(budget, positions)
        lists = [torch.from_numpy(feeds[name]) for name in ("numbers", "tokens", "mask")]
        threshold = torch.from_numpy(feeds["entropy_threshold"])
        budgets = torch.from_numpy(feeds["budget"])

        @torch.inference_mode()
        def run() -> Any:
            gate = EntropyGate(threshold, budgets)
            return decode(generator, generator.encode(*lists), positions, greedy, 0.7, gate)

        return run

    def compiled(self, budget: int, positions: int, feeds: dict[str, Array]) -> Run:
        """Return the whole loop through torch.compile; it compiles at the first call."""
        module = Unrolled(self.generator(budget, positions), positions, 0.7)
        compiled = torch.compile(module, dynamic=False)
        names = ("numbers", "tokens", "mask", "entropy_threshold")
        inputs = [torch.from_numpy(feeds[name]) for name in names]

        @torch.inference_mode()
        def run() -> Any:
            return compiled(*inputs)

        return run

    def exported(self, budget: int, positions: int) -> ort.InferenceSession:
        """Open the whole loop as torch.onnx.export writes it."""
        key = "plain unrolled export", budget, positions
        if key not in self.sessions:
            module = Unrolled(self.generator(budget, positions), positions, 0.7)
            size = Size(2, 12)
            feeds = feeds_of(size, REQUEST_NUMBERS, self.width, positions)
            feeds |= whole_lists(size, NUMBERS, TOKENS, VOCABULARY)
            names = ("numbers", "tokens", "mask", "entropy_threshold")
            inputs = tuple(torch.from_numpy(feeds[name]) for name in names)
            axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's own
                program = torch.onnx.export(
                    module, inputs, input_names=[*names[:3], "threshold"], dynamo=True,
                    dynamic_shapes=(axes, axes, axes, {0: torch.export.Dim.DYNAMIC}),
                    verbose=False,
                )  # fmt: skip
            assert program is not None
            path = Path(self.scratch.name) / "plain.onnx"
            path.write_bytes(program.model_proto.SerializeToString())
            self.notes["plain unrolled export"] = (
                f"{len(program.model_proto.graph.node)} nodes, exported in "
                f"{time.perf_counter() - began:.0f} s"
            )
            self.sessions[key] = open_graph(path, 1, "cpu")
        return self.sessions[key]

    def openvino(self, budget: int, positions: int) -> Any:
        """Compile the static form in OpenVINO; it reads no functions, so they are inlined."""
        import openvino

        model = onnx.inliner.inline_local_functions(self.model("static", budget, positions))
        path = Path(self.scratch.name) / "openvino.onnx"
        path.write_bytes(model.SerializeToString())
        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        return core.compile_model(core.read_model(path), "CPU", options).create_infer_request()

    def node_counts(self) -> dict[str, int]:
        """Count the nodes of each form's main graph once functions are inlined."""
        return {
            form: len(onnx.inliner.inline_local_functions(self.model(form, 3, 10)).graph.node)
            for form in ("static", "gated")
        }


def open_with(
    path: Path, patterns: bool = True, disabled_optimizers: Any = ("SkipLayerNormFusion",)
) -> ort.InferenceSession:
    """Open a graph with one thread and options that the service does not use."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = 1, patterns
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, disabled_optimizers=disabled_optimizers)


def quantise(path: Path) -> Path:
    """Write the graph with int8 weights beside it; activations are quantised at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    flat = path.with_suffix(".flat.onnx")
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), flat)
    out = path.with_suffix(".int8.onnx")
    quantize_dynamic(
        flat, out, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
    )
    return out
