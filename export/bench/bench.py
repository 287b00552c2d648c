"""Time every form of the graph and the native library, in one run (`python -m export bench`)."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from tqdm import tqdm

from export.bench.measure import Size, feeds_of, flops, gemm_throughput, timed
from export.bench.report import write, write_page
from export.bench.variants import OTHERS, REQUEST_NUMBERS, Run, Variants, quantise
from model.data.dataset import Dataset
from model.network.config import Config
from service.engine.collate import collate
from service.engine.contract import STATIC, Manifest
from service.engine.graph import open_graph
from service.engine.session import Session

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (10, 20, 50, 100, 200, 500)
LENGTHS = (5, 10, 20)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SMOKE_SECONDS = 0.05


@dataclass(frozen=True)
class BenchOptions:
    """Time every form of the graph and the native library side by side (a quarter of an hour)."""

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
    page_only: bool = False
    """Write page and plot again from the inference.json in --out, without measuring."""


@dataclass(frozen=True)
class Group:
    """Variants that are timed in turns, over slates of `positions` positions."""

    variants: list[tuple[str, Size]]
    positions: int = 10


def bench(options: BenchOptions) -> None:
    """Measure and write the report."""
    if options.page_only:
        write_page(options.out)
        return
    torch.set_num_threads(1)
    variants = Variants(Config.load(options.config))
    Manifest.read(options.bundle)  # fail here, before ten minutes are spent on the rest
    rows: list[dict[str, Any]] = []
    for group in tqdm(plan(options.smoke), "bench", disable=None):
        rows += measure(variants, group, SMOKE_SECONDS if options.smoke else options.seconds)
    began = time.perf_counter()
    session = Session.load(options.bundle)
    session.warm_up([1, 16], 50)
    notes = variants.notes
    notes["load and warm-up"] = f"{time.perf_counter() - began:.2f} s for {options.bundle}"
    if options.data.exists():
        scratch = Path(variants.scratch.name)
        notes["static int8"] = agreement(session, options.bundle, options.data, scratch)
    write(rows, floors(variants), notes, variants.node_counts(), machine(), options.out)


def plan(smoke: bool) -> list[Group]:
    """List the groups to time: the variants side by side first, then the sweeps."""
    groups = [side_by_side(batch) for batch in ((1, 2) if smoke else (1, 4, 8, 16, 32))]
    if smoke:
        return groups
    for batch in (1, 32):
        groups.append(Group([(name, Size(batch)) for name in OTHERS]))
    for batch in BATCHES:
        shares = (0.0, 0.5, 1.0) if batch > 1 else (0.0, 1.0)
        sizes = [Size(batch, share=share) for share in shares]
        groups.append(Group([(name, size) for name in ("gated", "native") for size in sizes]))
    for candidates in SIZES:
        groups.append(Group([("gated", Size(1, candidates)), ("static", Size(1, candidates)),
                             ("native", Size(1, candidates)),
                             ("static", Size(1, candidates, budget=0))]))  # fmt: skip
    for positions in LENGTHS:
        variants = [(name, Size(1)) for name in ("gated", "static", "native")]
        groups.append(Group(variants, positions))
    budgets = [("static", Size(batch, budget=budget)) for budget in range(4) for batch in (1, 32)]
    groups.append(Group(budgets))
    groups.append(Group([("gated", Size(32, share=share)) for share in SHARES]))
    return groups


def side_by_side(batch: int) -> Group:
    """Group the variants whose ratios the report states."""
    full = Size(batch)
    return Group(
        [
            ("torch eager", full), ("gated", full), ("static", full), ("native", full),
            ("gated", Size(batch, share=0.0)), ("native", Size(batch, share=0.0)),
            *([(name, Size(batch, share=0.5)) for name in ("gated", "native")]
              if batch > 1 else []),
            ("static", Size(batch, budget=0)), ("torch eager", Size(batch, budget=0)),
        ]
    )  # fmt: skip


def measure(variants: Variants, group: Group, seconds: float) -> list[dict[str, Any]]:
    """Time a group in turns and return a row of each; a variant that cannot run leaves a note.

    seconds: for each variant.
    """
    runs: dict[str, Run] = {}
    for number, (variant, size) in enumerate(group.variants):
        try:
            run = variants.run(variant, size, group.positions)
            run()
        except Exception as error:  # a compiler or package that is not installed
            variants.notes[variant] = f"not measured: {type(error).__name__}: {error}"[:200]
        else:
            runs[str(number)] = run
    rows = []
    for key, times in timed(runs, seconds * len(runs)).items():
        variant, size = group.variants[int(key)]
        rows.append(
            {
                "variant": variant, "device": "cpu", "threads": 1, "batch": size.batch,
                "candidates": size.candidates, "slate_length": group.positions,
                "budget": size.budget, "reasoning_share": size.share, "runs": len(times),
                "ms_median": round(1e3 * float(np.median(times)), 4),
                "ms_p99": round(1e3 * float(np.quantile(times, 0.99)), 4),
            }
        )  # fmt: skip
    return rows


def agreement(session: Session, bundle: Path, data: Path, scratch: Path) -> str:
    """Count the test lists on which int8 gives the slate that float32 gives, as text."""
    path = scratch / "served.onnx"
    path.write_bytes((bundle / STATIC).read_bytes())
    graphs = [open_graph(p, 1, "cpu") for p in (path, quantise(path))]
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


def floors(variants: Variants) -> list[dict[str, Any]]:
    """Divide the arithmetic of the static graph by the throughput of one core, for some batches."""
    throughput = gemm_throughput()
    rows = []
    for batch in (1, 16, 32):
        feeds = feeds_of(Size(batch), REQUEST_NUMBERS, variants.width, 10)
        count = flops(variants.model("static", 3, 10), feeds)
        rows.append({"batch": batch, "flops": count, "gemm_flops_per_s": round(throughput),
                     "ms": round(1e3 * count / throughput, 4)})  # fmt: skip
    return rows


def machine() -> str:
    """Describe the processor and the versions that the figures depend on."""
    return (
        f"{platform.machine()}, {cpu_name()}, Python {platform.python_version()}, torch "
        f"{torch.__version__.split('+')[0]}, onnxruntime {ort.__version__}"
    )


def cpu_name() -> str:
    """Return the processor's name as the kernel reports it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()
