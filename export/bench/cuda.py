"""python -m export cuda: whether a GPU ranks as the CPU does, and what a run costs on each.

Random requests over the bundle's items, with every knob, go through both of the service's
sessions; then the graphs are timed in turns. Writes cuda.md and cuda.json.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from tqdm import tqdm

from export.bench.measure import cores, median, timed
from export.bench.pages import render
from export.cases import knobbed
from export.tune import rows_of
from export.verify import LOGPROB_TOLERANCE
from service.engine.collate import collate
from service.engine.contract import GENERATOR, OUTPUTS, STATIC
from service.engine.cuda import CudaRunner, shape_of
from service.engine.features.candidates import CandidateList
from service.engine.graph import open_graph
from service.engine.rows import Row, Slate
from service.engine.session import Session

BATCHES, SIZES = (1, 4, 16, 64), (24, 50, 100, 500)
MOST_TIES = 0.01  # of the slates may differ
NAMES = list(OUTPUTS)[:5]


@dataclass(frozen=True)
class CudaOptions:
    """Compare the GPU with the CPU on random requests, and time both."""

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to run."""
    out: Path = Path("docs/reports")
    """Directory whose cuda.json and cuda.md are replaced."""
    batches: int = 1000
    """Batches to compare, of 1 to 16 lists each."""
    seconds: float = 1.0
    """Time for each batch and list size."""
    page_only: bool = False
    """Write cuda.md again from the cuda.json in --out, without measuring."""


class CudaError(RuntimeError):
    """The GPU ranks otherwise than the CPU does."""


@dataclass
class Agreement:
    """Slates of both: how many, how many differ where rounding decides, and the worst figure."""

    slates: int = 0
    sampled: int = 0
    ties: int = 0
    largest_difference: float = 0.0  # of log-probabilities and entropies, nats

    def add(self, row: Row, one: Slate, other: Slate) -> None:
        """Raises CudaError where slates or steps differ and no decision was that close."""
        self.slates += 1
        self.sampled += row.sampling is not None
        differ = (one.indices != other.indices) | (one.steps != other.steps)
        if differ.any():
            first = int(np.flatnonzero(differ)[0])
            if not row.sampling and closeness(row, one, first) > LOGPROB_TOLERANCE:
                raise CudaError(
                    f"position {first} of a list of {len(row.numbers)}: "
                    f"{one.indices.tolist()} after {one.steps.tolist()} steps on the CPU, "
                    f"{other.indices.tolist()} after {other.steps.tolist()} on the GPU"
                )
            self.ties += 1
            return
        for name in ("logprob", "entropy_before", "entropy_after"):
            worst = float(np.abs(getattr(one, name) - getattr(other, name)).max())
            if not worst <= LOGPROB_TOLERANCE:  # nor may it be NaN
                raise CudaError(f"{name} differs by {worst:.2e}, allowed {LOGPROB_TOLERANCE}")
            self.largest_difference = max(self.largest_difference, worst)


def closeness(row: Row, slate: Slate, position: int) -> float:
    """How far the nearest decision of a position - choice or gate - was from the other way.

    Of a sampled slate nothing is known: noise is on its choices.
    """
    assert slate.logits is not None
    top = np.sort(slate.logits[position])[-2:]
    before, after = slate.entropy_before[position], slate.entropy_after[position]
    gates = [abs(float(h) - row.entropy_threshold) for h in (before, after)] if row.budget else []
    return min([float(top[-1] - top[0]) if len(top) > 1 else np.inf, *gates])


def random_batches(session: Session, count: int, seed: int = 0) -> list[list[Row]]:
    """Batches of 1 to 16 lists of 1 to N_max candidates, every other list with knobs of its own."""
    draw = np.random.default_rng(seed)
    manifest, known = session.manifest, list(session.featuriser.items.ids)
    most = min(manifest.max_candidates, len(known))
    batches = []
    for _ in range(count):
        rows = []
        for index in range(int(draw.integers(1, 17))):
            size = int(np.exp(draw.uniform(0, np.log(most + 1))))
            ids = [known[i] for i in draw.choice(len(known), size, replace=False)]
            past = draw.choice(len(known), int(draw.integers(0, 48)), replace=False).tolist()
            history = [(known[i], float(draw.random() < 0.3)) for i in past]
            threshold = float(draw.choice([-1.0, manifest.entropy_threshold, 1e9]))
            budget = int(draw.integers(0, manifest.budget + 1))
            row = session.row(CandidateList(ids=ids, history=history), None, budget, threshold)
            if index % 2:
                row = knobbed(row, ids, row.slate_size, draw)
            rows.append(dataclasses.replace(row, explain=True))
        batches.append(rows)
    return batches


def agree(cpu: Session, other: Session, batches: Sequence[Sequence[Row]]) -> Agreement:
    """Both sessions on the same batches. Raises CudaError."""
    found = Agreement()
    for rows in tqdm(batches, "compare"):
        for row, one, two in zip(rows, cpu.run(rows), other.run(rows), strict=True):
            found.add(row, one, two)
    if found.ties > MOST_TIES * found.slates:
        raise CudaError(
            f"{found.ties} of {found.slates} slates differ, at most {MOST_TIES:.0%} may"
        )
    return found


def times(bundle: Path, cpu: Session, seconds: float) -> list[dict[str, Any]]:
    """Median milliseconds of a run of every batch and list size, every step taken."""
    positions = cpu.manifest.slate_length
    many = cores()
    runner = CudaRunner(open_graph(bundle / STATIC, 1, "cuda", capture=True), positions)
    plain = open_graph(bundle / STATIC, 1, "cuda")
    single = open_graph(bundle / GENERATOR, 1, "cpu", packed=False)
    threaded = open_graph(bundle / GENERATOR, many, "cpu", packed=False)
    found = []
    for size in tqdm(SIZES, "time"):
        for batch in BATCHES:
            feeds = collate(rows_of(cpu, batch, size), positions)
            began = time.perf_counter()
            runner.run(NAMES, feeds)  # its bucket is captured
            first = time.perf_counter() - began
            runs: dict[str, Callable[[], Any]] = {
                "cpu_ms": partial(single.run, NAMES, feeds),
                "cpu_threads_ms": partial(threaded.run, NAMES, feeds),
                "cuda_plain_ms": partial(plain.run, NAMES, feeds),
                "cuda_ms": partial(runner.run, NAMES, feeds),
            }
            medians = {name: round(median(t), 3) for name, t in timed(runs, seconds).items()}
            bucket = dataclasses.asdict(shape_of(feeds))
            found.append(
                {"lists": batch, "candidates": size, "bucket": bucket,
                 "first_ms": round(1e3 * first, 1), **medians}
            )  # fmt: skip
    return found


def write(report: dict[str, Any], out: Path) -> None:
    """Write cuda.json and cuda.md below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "cuda.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_page(out)


def write_page(out: Path) -> None:
    """Write cuda.md from the cuda.json below `out`."""
    report = json.loads((out / "cuda.json").read_text(encoding="utf-8"))
    (out / "cuda.md").write_text(page(report), encoding="utf-8")


def page(report: dict[str, Any]) -> str:
    """Render the report as Markdown."""
    return render("cuda.md.jinja", **report)


def check(options: CudaOptions) -> dict[str, Any]:
    """Compare, time, write the report. Raises CudaError, or BundleError where there is no GPU."""
    opened, sessions = {}, {}
    for provider in ("cuda", "cpu"):
        began = time.perf_counter()
        sessions[provider] = Session.load(options.bundle, provider=provider)
        opened[provider] = round(time.perf_counter() - began, 2)
    cpu = sessions["cpu"]
    agreement = agree(cpu, sessions["cuda"], random_batches(cpu, options.batches))
    report = {
        "command": f"python -m export cuda --batches {options.batches} "
        f"--seconds {options.seconds:g}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "unknown GPU",
        "cores": cores(),
        "onnxruntime": ort.__version__,
        "steps": cpu.manifest.budget * cpu.manifest.slate_length,
        "agreement": dataclasses.asdict(agreement),
        "open_s": opened,
        "rows": times(options.bundle, cpu, options.seconds),
    }
    write(report, options.out)
    return report
