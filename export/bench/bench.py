"""python -m export bench: what every form of the graph costs, side by side in one run.

Weights are random and of the served configuration's shape: no figure depends on what was learnt,
because thresholds decide who reasons. Writes inference.md, inference.json and inference.png.
"""

from __future__ import annotations

import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from tqdm import tqdm

from export.bench.measure import Size, feeds_of, flops, gemm_throughput, timed
from export.bench.report import write
from export.graph.compose import compose
from model.data.dataset import Dataset
from model.network.config import Config
from model.network.generator import Generator
from model.network.reasoning import EntropyGate, decode, greedy, reason_where
from service.engine.collate import collate
from service.engine.contract import OUTPUTS, STATIC, Manifest
from service.engine.graph import open_graph
from service.engine.session import Session

NAMES = list(OUTPUTS)[:5]
NUMBERS, TOKENS, VOCABULARY = 121, 21, 3000  # columns and tokens as RankLens has them
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (10, 20, 50, 100, 200, 500)
LENGTHS = (5, 10, 20)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# What onnxruntime is told otherwise than the service does, which is "static" and "gated".
OPTIONS: dict[str, dict[str, Any]] = {
    "static": {},
    "gated, weights packed": {},
    "static, SkipLayerNormFusion on": {"disabled_optimizers": None},
    "static, memory patterns off": {"patterns": False},
}
OTHERS = (*OPTIONS, "static int8", "plain unrolled export", "torch.compile", "OpenVINO")
Run = Callable[[], Any]


@dataclass(frozen=True)
class BenchOptions:
    """Time every form of the graph side by side (ten minutes)."""

    config: Path = Path("model/configs/served.yaml")
    """Training configuration whose network and reasoning are timed."""
    out: Path = Path("docs/reports")
    """Directory whose inference.json, inference.md and inference.png are replaced."""
    bundle: Path = Path("bundles/ranklens/1")
    """Bundle whose loading is timed and whose weights int8 is compared on."""
    data: Path = Path("build/ranklens/warm")
    """Data set whose test lists int8 is compared on; skipped where it is absent."""
    seconds: float = 4.0
    """Time for each variant and size."""
    smoke: bool = False
    """Run a miniature, for tests."""


class Unrolled(nn.Module):
    """The loop without branches, as torch.onnx.export and torch.compile take it."""

    def __init__(self, generator: Generator, positions: int, temperature: float) -> None:
        super().__init__()
        self.generator, self.positions, self.temperature = generator, positions, temperature

    def forward(self, numbers: Tensor, tokens: Tensor, mask: Tensor, threshold: Tensor) -> Tensor:
        """Slates int64 [B, K], every step taken and masked; threshold float [B] in nats."""
        own = self.generator
        encoded = own.encode(numbers, tokens, mask)
        choice, items = own.begin(encoded), []
        for position in range(self.positions):
            active = torch.ones_like(threshold, dtype=torch.bool)
            for step in range(own.reasoning.budget):
                active = active & (choice.entropy > threshold)
                choice = reason_where(own, encoded, choice, torch.tensor(step), active)
            items.append(choice.logits.argmax(dim=-1))
            if position + 1 < self.positions:
                choice = own.recommend(encoded, choice, items[-1], torch.tensor(position))
        return torch.stack(items, dim=1)


class Bench:
    """The variants, made once, and the rows measured so far."""

    def __init__(self, config: Config, seconds: float, smoke: bool) -> None:
        self.config, self.seconds, self.smoke = config, seconds, smoke
        self.rows: list[dict[str, Any]] = []
        self.notes: dict[str, str] = {}
        self.scratch = tempfile.TemporaryDirectory()
        self.generators: dict[tuple[int, int], Generator] = {}
        self.sessions: dict[tuple[str, int, int], ort.InferenceSession] = {}

    def generator(self, budget: int, positions: int) -> Generator:
        """Random weights of the configured shape."""
        key = budget, positions
        if key not in self.generators:
            torch.manual_seed(0)
            reasoning = type(self.config.reasoning)(budget=budget)
            self.generators[key] = Generator(
                self.config.network, NUMBERS, VOCABULARY, positions, reasoning
            ).eval()
        return self.generators[key]

    def session(self, form: str, budget: int, positions: int) -> ort.InferenceSession:
        """A form of the graph as the service opens it, one thread."""
        key = form, budget, positions
        if key not in self.sessions:
            model = self.model(form, budget, positions)
            path = Path(self.scratch.name) / f"{form}-{budget}-{positions}.onnx"
            path.write_bytes(model.SerializeToString())
            if form == "static int8":
                path = quantised(path)
            self.sessions[key] = (
                open_graph(path, 1, "cpu", packed=form != "gated")
                if not OPTIONS.get(form)
                else opened(path, **OPTIONS[form])
            )
        return self.sessions[key]

    def model(self, form: str, budget: int, positions: int) -> onnx.ModelProto:
        """A form of the graph."""
        generator = self.generator(budget, positions)
        return compose(generator, NUMBERS, TOKENS, positions, gated=form.startswith("gated"))

    def run(self, variant: str, size: Size, positions: int) -> Run:
        """One call of a variant, ready to be timed."""
        feeds = feeds_of(size, NUMBERS, TOKENS, VOCABULARY, positions)
        if variant in ("gated", "static int8", *OPTIONS):
            session = self.session(variant, size.budget, positions)
            return lambda: session.run(NAMES, feeds)
        generator = self.generator(size.budget, positions)
        given = [torch.from_numpy(feeds[name]) for name in ("numbers", "tokens", "mask")]
        threshold = torch.from_numpy(feeds["entropy_threshold"])
        if variant == "torch eager":
            budget = torch.from_numpy(feeds["budget"])

            @torch.inference_mode()
            def eager() -> Any:
                gate = EntropyGate(threshold, budget)
                return decode(generator, generator.encode(*given), positions, greedy, 0.7, gate)

            return eager
        arrays = {name: feeds[name] for name in ("numbers", "tokens", "mask")}
        arrays["threshold"] = feeds["entropy_threshold"]
        if variant == "plain unrolled export":
            session = self.exported(size.budget, positions)
            return lambda: session.run(None, arrays)
        if variant == "torch.compile":
            compiled = self.compiled(size.budget, positions)

            @torch.inference_mode()
            def run() -> Any:
                return compiled(*given, threshold)

            return run
        if variant == "OpenVINO":
            request = self.openvino(size.budget, positions)
            return lambda: request.infer(feeds)
        raise ValueError(variant)

    def exported(self, budget: int, positions: int) -> ort.InferenceSession:
        """The whole loop through torch.onnx.export."""
        key = "plain unrolled export", budget, positions
        if key not in self.sessions:
            module = Unrolled(self.generator(budget, positions), positions, 0.7)
            feeds = feeds_of(Size(2, 12), NUMBERS, TOKENS, VOCABULARY, positions)
            names = ("numbers", "tokens", "mask", "entropy_threshold")
            given = tuple(torch.from_numpy(feeds[name]) for name in names)
            axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's own
                program = torch.onnx.export(
                    module, given, input_names=[*names[:3], "threshold"], dynamo=True,
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

    def compiled(self, budget: int, positions: int) -> Callable[..., Any]:
        """The whole loop through torch.compile; compiled at the first call of each shape."""
        module = Unrolled(self.generator(budget, positions), positions, 0.7)
        return torch.compile(module, dynamic=False)

    def openvino(self, budget: int, positions: int) -> Any:
        """The static form in OpenVINO, which reads no functions: inlined."""
        import onnx.inliner
        import openvino

        model = onnx.inliner.inline_local_functions(self.model("static", budget, positions))
        path = Path(self.scratch.name) / "openvino.onnx"
        path.write_bytes(model.SerializeToString())
        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        return core.compile_model(core.read_model(path), "CPU", options).create_infer_request()

    def measure(self, variants: list[tuple[str, Size]], positions: int = 10) -> None:
        """Time these in turns and keep a row of each; what cannot run leaves a note."""
        runs: dict[int, Run] = {}
        for number, (variant, size) in enumerate(variants):
            try:
                runs[number] = self.run(variant, size, positions)
                runs[number]()
            except Exception as error:  # a compiler or package that is not there
                self.notes[variant] = f"not measured: {type(error).__name__}: {error}"[:200]
                runs.pop(number, None)
        times = timed({str(number): run for number, run in runs.items()}, self.seconds * len(runs))
        for number, seconds in times.items():
            variant, size = variants[int(number)]
            self.rows.append(
                {
                    "variant": variant, "device": "cpu", "threads": 1, "batch": size.batch,
                    "candidates": size.candidates, "slate_length": positions,
                    "budget": size.budget, "reasoning_share": size.share, "runs": len(seconds),
                    "ms_median": round(1e3 * float(np.median(seconds)), 4),
                    "ms_p99": round(1e3 * float(np.quantile(seconds, 0.99)), 4),
                }
            )  # fmt: skip


def opened(
    path: Path, patterns: bool = True, disabled_optimizers: Any = ("SkipLayerNormFusion",)
) -> ort.InferenceSession:
    """A graph opened otherwise than the service does, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = 1, patterns
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, disabled_optimizers=disabled_optimizers)


def quantised(path: Path) -> Path:
    """The graph with int8 weights, activations quantised as they come."""
    import onnx.inliner
    from onnxruntime.quantization import QuantType, quantize_dynamic

    flat = path.with_suffix(".flat.onnx")
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), flat)
    out = path.with_suffix(".int8.onnx")
    quantize_dynamic(
        flat, out, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
    )
    return out


def agreement(session: Session, bundle: Path, data: Path, scratch: Path) -> str:
    """On how many test lists int8 gives the slate that float32 gives, as text."""
    path = scratch / "served.onnx"
    path.write_bytes((bundle / STATIC).read_bytes())
    graphs = [open_graph(p, 1, "cpu") for p in (path, quantised(path))]
    requests = [i.request for i in Dataset(data).impressions(["test"])]
    same = 0
    for start in range(0, len(requests), 64):
        rows = [session.row(request) for request in requests[start : start + 64]]
        feeds = collate(rows, session.manifest.slate_length)
        one, other = (graph.run(["slate"], feeds)[0] for graph in graphs)
        same += int((one == other).all(axis=1).sum())
    return (
        f"the slate of float32 on {same} of {len(requests)} test lists ({same / len(requests):.1%})"
    )


def plan(smoke: bool) -> list[tuple[list[tuple[str, Size]], int]]:
    """What is timed together: the variants side by side first, then the sweeps."""
    batches = (1, 2) if smoke else (1, 8, 32)
    groups: list[tuple[list[tuple[str, Size]], int]] = []
    for batch in batches:
        every = Size(batch)
        main = [
            ("torch eager", every), ("gated", every), ("static", every),
            ("gated", Size(batch, share=0.0)),
            *([("gated", Size(batch, share=0.5))] if batch > 1 else []),
            ("static", Size(batch, budget=0)), ("torch eager", Size(batch, budget=0)),
        ]  # fmt: skip
        groups.append((main, 10))
    if smoke:
        return groups
    for batch in (1, 32):
        every = Size(batch)
        others = [(name, every) for name in OTHERS]
        groups.append((others, 10))
    for batch in BATCHES:
        shares = (0.0, 0.5, 1.0) if batch > 1 else (0.0, 1.0)
        groups.append(([("gated", Size(batch, share=share)) for share in shares], 10))
    for candidates in SIZES:
        groups.append(([("gated", Size(1, candidates)), ("static", Size(1, candidates)),
                        ("static", Size(1, candidates, budget=0))], 10))  # fmt: skip
    for positions in LENGTHS:
        groups.append(([("gated", Size(1)), ("static", Size(1))], positions))
    groups.append(([("static", Size(batch, budget=s)) for s in range(4) for batch in (1, 32)], 10))
    groups.append(([("gated", Size(32, share=share)) for share in SHARES], 10))
    return groups


def bench(options: BenchOptions) -> None:
    """Measure and write the report."""
    torch.set_num_threads(1)
    config = Config.load(options.config)
    Manifest.read(options.bundle)  # before ten minutes are spent on the rest
    own = Bench(config, 0.05 if options.smoke else options.seconds, options.smoke)
    for variants, positions in tqdm(plan(options.smoke), "bench"):
        own.measure(variants, positions)
    began = time.perf_counter()
    session = Session.load(options.bundle)
    session.warm_up([1, 16], 50)
    own.notes["load and warm-up"] = f"{time.perf_counter() - began:.2f} s for {options.bundle}"
    if options.data.exists():
        found = agreement(session, options.bundle, options.data, Path(own.scratch.name))
        own.notes["static int8"] = found
    throughput = gemm_throughput()
    floors = []
    for batch in (1, 32):
        feeds = feeds_of(Size(batch), NUMBERS, TOKENS, VOCABULARY, 10)
        count = flops(own.model("static", 3, 10), feeds)
        floors.append({"batch": batch, "flops": count, "gemm_flops_per_s": round(throughput),
                       "ms": round(1e3 * count / throughput, 4)})  # fmt: skip
    nodes = {form: len(onnx.inliner.inline_local_functions(own.model(form, 3, 10)).graph.node)
             for form in ("static", "gated")}  # fmt: skip
    machine = (
        f"{platform.machine()}, {cpu_name()}, Python {platform.python_version()}, torch "
        f"{torch.__version__.split('+')[0]}, onnxruntime {ort.__version__}"
    )
    write(own.rows, floors, own.notes, nodes, machine, options.out)


def cpu_name() -> str:
    """As the kernel calls it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()
