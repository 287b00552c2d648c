"""Compare a GPU's slates with the CPU's and time both (`python -m export cuda`).

Random requests over the bundle's items, with random constraints and sampling, and in every other
batch with random intents, go through both of the service's sessions. The graphs are then timed in
turns.
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

from export.agreement import agree
from export.bench.measure import cores, median, timed
from export.bench.pages import render
from export.cases import EVERY_STEP, NO_STEP, random_intent, randomised
from export.tune import rows_of
from service.engine.collate import collate
from service.engine.contract import GENERATOR, OUTPUTS, STATIC
from service.engine.cuda import CudaRunner, shape_of
from service.engine.features.candidates import CandidateList
from service.engine.graph import open_graph
from service.engine.rows import Row
from service.engine.session import Session

BATCHES, SIZES = (1, 4, 16, 64), (24, 50, 100, 500)
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


def random_batches(session: Session, count: int, seed: int = 0) -> list[list[Row]]:
    """Return batches of 1 to 16 lists of 1 to N_max candidates; every other list is randomised."""
    draw = np.random.default_rng(seed)
    return [
        [random_row(session, draw, index % 2 == 1) for index in range(int(draw.integers(1, 17)))]
        for _ in range(count)
    ]


def with_intents(batches: Sequence[Sequence[Row]], seed: int = 1) -> list[list[Row]]:
    """Return the same batches with a random intent for every list."""
    draw = np.random.default_rng(seed)
    return [
        [dataclasses.replace(row, intent=random_intent(len(row.numbers), draw)) for row in rows]
        for rows in batches
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
    """Compare, time, write and return the report.

    Raises DisagreementError, or BundleError without a GPU.
    """
    open_s, sessions = {}, {}
    for provider in ("cuda", "cpu"):
        began = time.perf_counter()
        sessions[provider] = Session.load(options.bundle, provider=provider)
        open_s[provider] = round(time.perf_counter() - began, 2)
    cpu = sessions["cpu"]
    batches = random_batches(cpu, options.batches)
    if cpu.supports_intent:
        batches[1::2] = with_intents(batches[1::2])
    agreement = agree({"the CPU": cpu, "the GPU": sessions["cuda"]}, batches)
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
