"""Compare a GPU's slates with the CPU's and time both (`python -m export cuda`).

Random requests over the bundle's items, with random constraints and sampling, go through both of
the service's sessions. The graphs are then timed in turns.
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
from export.cases import EVERY_STEP, NO_STEP, randomised
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
MAX_TIES = 0.01  # share of the slates that may differ
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
    """The GPU ranks otherwise than the CPU."""


@dataclass
class Agreement:
    """Slates that both devices ranked, how many differ, and the largest difference of figures."""

    slates: int = 0
    sampled: int = 0
    ties: int = 0
    largest_difference: float = 0.0  # of log-probabilities and entropies, nats

    def add(self, row: Row, cpu: Slate, gpu: Slate) -> None:
        """Count one pair. Raises CudaError if they differ and no decision was that close."""
        self.slates += 1
        self.sampled += row.sampling is not None
        differ = (cpu.indices != gpu.indices) | (cpu.steps != gpu.steps)
        if differ.any():
            first = int(np.flatnonzero(differ)[0])
            if not row.sampling and closeness(row, cpu, first) > LOGPROB_TOLERANCE:
                raise CudaError(
                    f"position {first} of a list of {len(row.numbers)}: "
                    f"{cpu.indices.tolist()} after {cpu.steps.tolist()} steps on the CPU, "
                    f"{gpu.indices.tolist()} after {gpu.steps.tolist()} on the GPU"
                )
            self.ties += 1
            return
        for name in ("logprob", "entropy_before", "entropy_after"):
            one, other = getattr(cpu, name), getattr(gpu, name)
            differences = np.abs(one - other)
            at = int(differences.argmax())  # a NaN counts as the largest
            difference = float(differences[at])
            if not difference <= LOGPROB_TOLERANCE:  # NaN fails too
                raise CudaError(
                    f"position {at} of a list of {len(row.numbers)}: {name} is {one[at]:.6f} on "
                    f"the CPU and {other[at]:.6f} on the GPU; may differ by {LOGPROB_TOLERANCE}, "
                    f"got {difference:.2e}"
                )
            self.largest_difference = max(self.largest_difference, difference)


def closeness(row: Row, slate: Slate, position: int) -> float:
    """Return the distance of a position's nearest decision, choice or gate, from the other outcome.

    It is meaningless for a sampled slate, which has noise on its choices.
    """
    assert slate.logits is not None
    top = np.sort(slate.logits[position])[-2:]
    before, after = slate.entropy_before[position], slate.entropy_after[position]
    gates = [abs(float(h) - row.entropy_threshold) for h in (before, after)] if row.budget else []
    return min([float(top[-1] - top[0]) if len(top) > 1 else np.inf, *gates])


def random_batches(session: Session, count: int, seed: int = 0) -> list[list[Row]]:
    """Return batches of 1 to 16 lists of 1 to N_max candidates; every other list is randomised."""
    draw = np.random.default_rng(seed)
    return [
        [random_row(session, draw, index % 2 == 1) for index in range(int(draw.integers(1, 17)))]
        for _ in range(count)
    ]


def random_row(session: Session, draw: np.random.Generator, randomise: bool) -> Row:
    """Return a request over the bundle's items, with a random history, budget and threshold."""
    manifest, items = session.manifest, list(session.featuriser.items.ids)
    longest = min(manifest.max_candidates, len(items))
    size = int(np.exp(draw.uniform(0, np.log(longest + 1))))
    ids = [items[i] for i in draw.choice(len(items), size, replace=False)]
    past = draw.choice(len(items), int(draw.integers(0, 48)), replace=False).tolist()
    history = [(items[i], float(draw.random() < 0.3)) for i in past]
    threshold = float(draw.choice([EVERY_STEP, manifest.entropy_threshold, NO_STEP]))
    budget = int(draw.integers(0, manifest.budget + 1))
    candidates = CandidateList(ids=ids, history=history)
    row = session.row(candidates, None, budget, threshold)
    if randomise:
        row = randomised(row, ids, row.slate_size, draw)
    return dataclasses.replace(row, explain=True)


def agree(cpu: Session, gpu: Session, batches: Sequence[Sequence[Row]]) -> Agreement:
    """Rank the same batches by both sessions and compare. Raises CudaError."""
    agreement = Agreement()
    for rows in tqdm(batches, "compare", disable=None):
        for row, one, other in zip(rows, cpu.run(rows), gpu.run(rows), strict=True):
            agreement.add(row, one, other)
    if agreement.ties > MAX_TIES * agreement.slates:
        raise CudaError(
            f"{agreement.ties} of {agreement.slates} slates differ, at most {MAX_TIES:.0%} may"
        )
    return agreement


def times(bundle: Path, cpu: Session, seconds: float) -> list[dict[str, Any]]:
    """Return the median milliseconds of a run for every batch and list size, every step taken."""
    positions = cpu.manifest.slate_length
    runner = CudaRunner(open_graph(bundle / STATIC, 1, "cuda", capture=True), positions)
    plain = open_graph(bundle / STATIC, 1, "cuda")
    single = open_graph(bundle / GENERATOR, 1, "cpu", packed=False)
    threaded = open_graph(bundle / GENERATOR, cores(), "cpu", packed=False)
    rows = []
    for size in tqdm(SIZES, "time", disable=None):
        for batch in BATCHES:
            feeds = collate(rows_of(cpu, batch, size), positions)
            began = time.perf_counter()
            runner.run(NAMES, feeds)  # captures the graph of this bucket
            first = time.perf_counter() - began
            runs: dict[str, Callable[[], Any]] = {
                "cpu_ms": partial(single.run, NAMES, feeds),
                "cpu_threads_ms": partial(threaded.run, NAMES, feeds),
                "cuda_plain_ms": partial(plain.run, NAMES, feeds),
                "cuda_ms": partial(runner.run, NAMES, feeds),
            }
            medians = {name: round(median(t), 3) for name, t in timed(runs, seconds).items()}
            bucket = dataclasses.asdict(shape_of(feeds))
            rows.append(
                {"lists": batch, "candidates": size, "bucket": bucket,
                 "first_ms": round(1e3 * first, 1), **medians}
            )  # fmt: skip
    return rows


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
    """Compare, time, write and return the report. Raises CudaError, or BundleError with no GPU."""
    open_s, sessions = {}, {}
    for provider in ("cuda", "cpu"):
        began = time.perf_counter()
        sessions[provider] = Session.load(options.bundle, provider=provider)
        open_s[provider] = round(time.perf_counter() - began, 2)
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
        "open_s": open_s,
        "rows": times(options.bundle, cpu, options.seconds),
    }
    write(report, options.out)
    return report
