"""A loaded bundle: verify it, featurise lists, run its graphs, warm up."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.engine.collate import SLATE_OUTPUTS, ModelError, collate, decode
from service.engine.constraints import SlateConstraints
from service.engine.contract import (
    EVALUATOR,
    EVALUATOR_INPUTS,
    EVALUATOR_OUTPUTS,
    FEATURES,
    GENERATOR,
    GOLDEN,
    INPUTS,
    ITEMS,
    OUTPUTS,
    STATIC,
    BundleError,
    Floats,
    Integers,
    Manifest,
)
from service.engine.cuda import CudaRunner, on_device, warm_up_sizes
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser
from service.engine.graph import check_signature, open_graph
from service.engine.rows import Row, Slate, SlateSampling, Timing


class Session:
    """A verified bundle, ready to run; on the CPU `run` is thread-safe and releases the GIL."""

    def __init__(
        self,
        manifest: Manifest,
        featuriser: Featuriser,
        generator: ort.InferenceSession,
        evaluator: ort.InferenceSession,
    ) -> None:
        self.manifest = manifest
        self.featuriser = featuriser
        self._generator, self._evaluator = generator, evaluator
        self.graph_cpu_s = 0.0  # CPU seconds of all runs so far
        self._run, self._evaluate = generator.run, evaluator.run
        if self.provider == "CUDAExecutionProvider":
            self._run = CudaRunner(generator, manifest.slate_length).run
            self._evaluate = lambda *feeds: on_device(lambda: evaluator.run(*feeds))

    @classmethod
    def load(
        cls, directory: Path, threads: int = 1, provider: str = "cpu", spinning: bool = False
    ) -> Session:
        """Verify every file and the graphs' signatures, then replay the golden requests.

        Args:
            directory: the bundle.
            threads: onnxruntime's intra-op threads. The graph is small, so one thread is usually
                fastest (python -m export tune).
            provider: cpu, which runs the gated form, or cuda, which runs the static one.
            spinning: let idle threads spin between runs.

        Raises:
            BundleError: names the file and both values, or the provider that is missing.
        """
        manifest = Manifest.read(directory)
        manifest.verify_files(directory)
        try:
            featuriser = Featuriser.load(directory)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"{directory}: {FEATURES} or {ITEMS} does not load ({error})"
            ) from error
        for name in ("numbers", "tokens"):
            width = getattr(featuriser, f"{name}_width")
            if width != getattr(manifest, name):
                raise BundleError(
                    f"{directory}: the featuriser makes {width} columns of {name}, "
                    f"but the manifest says {getattr(manifest, name)}"
                )
        graphs = []
        for name, inputs, outputs in (
            (STATIC if provider == "cuda" else GENERATOR, INPUTS, OUTPUTS),
            (EVALUATOR, EVALUATOR_INPUTS, EVALUATOR_OUTPUTS),
        ):
            capture = name == STATIC  # not the evaluator, which runs on any number of slates
            packed = name != GENERATOR
            path = directory / name
            graphs.append(open_graph(path, threads, provider, spinning, capture, packed))
            check_signature(directory / name, graphs[-1], inputs, outputs)
        session = cls(manifest, featuriser, *graphs)
        session.replay_golden(json.loads((directory / GOLDEN).read_text(encoding="utf-8")))
        return session

    @property
    def provider(self) -> str:
        """Name of the execution provider that runs the graph."""
        return str(self._generator.get_providers()[0])

    def row(
        self,
        candidates: CandidateList,
        slate_size: int | None = None,
        budget: int | None = None,
        entropy_threshold: float | None = None,
    ) -> Row:
        """Featurise one candidate list; None stands for the bundle's default.

        The row has no constraints. Raises FeatureError for inline features that break the schema.
        """
        numbers, tokens = self.featuriser.transform(candidates)
        return self._row(numbers, tokens, slate_size, budget, entropy_threshold)

    def placeholder_row(
        self,
        candidates: CandidateList,
        slate_size: int | None = None,
        budget: int | None = None,
        entropy_threshold: float | None = None,
    ) -> Row:
        """Return the same row without features, for a list that will not be run."""
        count = len(candidates.ids)
        numbers, tokens = np.zeros((count, 0), np.float32), np.zeros((count, 0), np.int64)
        return self._row(numbers, tokens, slate_size, budget, entropy_threshold)

    def _row(
        self,
        numbers: Floats,
        tokens: Integers,
        slate_size: int | None,
        budget: int | None,
        entropy_threshold: float | None,
    ) -> Row:
        manifest, count = self.manifest, len(numbers)
        longest = min(manifest.slate_length, count)
        size = longest if slate_size is None else slate_size
        return Row(
            numbers=numbers,
            tokens=tokens,
            slate_size=size,
            budget=manifest.budget if budget is None else budget,
            entropy_threshold=(
                manifest.entropy_threshold if entropy_threshold is None else entropy_threshold
            ),
            reason_temperature=manifest.reason_temperature,
            recommend_temperature=manifest.recommend_temperature,
            constraints=SlateConstraints.none(count, size),
        )

    def run(self, rows: Sequence[Row]) -> list[Slate]:
        """Decode one slate per row in a single padded run.

        A sampled row gets its slate of highest utility. Raises ModelError if the graph fails or an
        output is not a valid slate.
        """
        feeds = collate(rows, self.manifest.slate_length)
        explained = any(row.explain for row in rows)
        began = time.thread_time()
        try:
            outputs = self._run([*SLATE_OUTPUTS, "logits"] if explained else SLATE_OUTPUTS, feeds)
            logits = outputs.pop() if explained else None
            utility = None
            if any(row.sampling for row in rows):
                slates = {
                    "slate": outputs[0],
                    **{n: feeds[n] for n in ("numbers", "tokens", "list")},
                }
                (utility,) = self._evaluate(["utility"], slates)
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            raise ModelError(f"the graph failed: {error}") from error
        finally:
            self.graph_cpu_s += time.thread_time() - began
        return decode(rows, outputs, logits, utility)

    def replay_golden(self, golden: Sequence[Mapping[str, Any]]) -> None:
        """Raise BundleError for the first golden request whose slate or steps differ."""
        for number, entry in enumerate(golden):
            row = self.row(CandidateList.from_json(entry["request"]))
            try:
                slate = self.run([row])[0]
            except ModelError as error:
                raise BundleError(f"{GOLDEN}[{number}]: {error}") from error
            ids = [entry["request"]["candidates"][i]["id"] for i in slate.indices.tolist()]
            for field, value in (("slate", ids), ("steps", slate.steps.tolist())):
                if value != entry[field]:
                    raise BundleError(
                        f"{GOLDEN}[{number}].{field}: decoded {value}, expected {entry[field]}"
                    )

    def warm_up(self, batch_sizes: Sequence[int], list_size: int) -> list[Timing]:
        """Run each batch size, so that no request pays for allocations; return the fastest timings.

        Each batch size is run with every step of the bundle's budget, and on the CPU at budget 0
        too. On CUDA a run takes as long at every budget; there each bucket up to the largest batch
        is captured.
        """
        manifest = self.manifest

        def blank(count: int) -> Row:
            size = min(manifest.slate_length, count)
            return Row(
                np.zeros((count, manifest.numbers), np.float32),
                np.zeros((count, manifest.tokens), np.int64),
                size,
                manifest.budget,
                -1.0,
                manifest.reason_temperature,
                manifest.recommend_temperature,
                SlateConstraints.none(count, size),
            )

        row, budgets = blank(list_size), {0, manifest.budget}
        self.run([dataclasses.replace(row, sampling=SlateSampling(2, seed=0), explain=True)])
        if self.provider == "CUDAExecutionProvider":
            budgets = {manifest.budget}
            for lists, count in warm_up_sizes(max(batch_sizes), manifest.max_candidates):
                self.run([blank(count)] * lists)
        timings = []
        for budget in sorted(budgets):
            for batch in sorted(set(batch_sizes)):
                rows = [dataclasses.replace(row, budget=budget)] * batch
                times = []
                for _ in range(3):
                    began = time.monotonic()
                    self.run(rows)
                    times.append(time.monotonic() - began)
                timings.append(Timing(budget, batch * list_size, min(times)))
        return timings
