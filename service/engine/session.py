"""A loaded bundle: verify it, featurise lists, run its graphs, warm up."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.engine.collate import SLATE_OUTPUTS, ModelError, collate, decode, intent_inputs
from service.engine.constraints import SlateConstraints
from service.engine.contract import (
    GOLDEN,
    INTENT_GENERATOR,
    INTENT_GOLDEN,
    NETWORKS,
    SEAL,
    BundleError,
    Integers,
    Manifest,
)
from service.engine.cuda import CudaRunner, on_device, warm_up_sizes
from service.engine.features.attributes import candidate_values, groups_of
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser
from service.engine.features.loading import load_featuriser
from service.engine.features.row_featuriser import RowFeaturiser
from service.engine.graph import open_graphs
from service.engine.intent import DiversityTerm, build_intent
from service.engine.native import NativeOutputs
from service.engine.native_backend import (
    BY_SETTING,
    ON_GPU,
    Backend,
    BackendName,
    Decoded,
    NativeBackend,
    check,
    native_backend,
)
from service.engine.rows import Row, Slate, SlateSampling, Timing
from service.engine.steps import StepTracer

GENERATOR_ROWS, EVALUATOR_ROWS = NETWORKS
EVERY_STEP = -1.0  # a threshold below every entropy, nats


class Session:
    """A verified bundle, ready to run; on the CPU `run` is thread-safe and releases the GIL.

    supports_intent: rows may have an intent, because the bundle has the graph for it. A batch with
    such a row runs on it, every other one on the graph without its inputs.
    """

    def __init__(
        self,
        manifest: Manifest,
        featuriser: Featuriser,
        generator: ort.InferenceSession,
        evaluator: ort.InferenceSession,
        intent: ort.InferenceSession | None = None,
    ) -> None:
        """intent: the graph of intent in the generator's form, None if the bundle has none."""
        self.manifest = manifest
        self.featuriser = featuriser
        self.digest = ""  # SHA-256 of the manifest in hexadecimal, of a bundle that was loaded
        self._generator, self._evaluator = generator, evaluator
        self._provider = str(generator.get_providers()[0])
        self.supports_intent = intent is not None
        self.graph_cpu_s = 0.0  # CPU seconds of all runs so far
        self.tracer: StepTracer | None = None  # of a bundle that was loaded
        self._native: NativeBackend | None = None
        self.backend = BY_SETTING
        self._run, self._evaluate = generator.run, evaluator.run
        self._run_intent = None if intent is None else intent.run
        if self.provider == "CUDAExecutionProvider":
            self._run = CudaRunner(generator, manifest.slate_length).run
            self._evaluate = lambda *feeds: on_device(lambda: evaluator.run(*feeds))
            if intent is not None:
                self._run_intent = lambda *feeds: on_device(lambda: intent.run(*feeds))

    @classmethod
    def load(
        cls,
        directory: Path,
        threads: int = 1,
        provider: str = "cpu",
        spinning: bool = False,
        digest_of: Callable[[Path], str] | None = None,
        backend: BackendName = "onnx",
    ) -> Session:
        """Verify every file and the graphs' signatures, then replay the golden requests.

        Args:
            directory: the bundle.
            threads: onnxruntime's intra-op threads. The graph is small, so one thread is usually
                fastest (python -m export tune).
            provider: cpu, which runs the gated form, or cuda, which runs the static one.
            spinning: let idle threads spin between runs.
            digest_of: returns the SHA-256 of a file (Manifest.verify_files).
            backend: onnx runs the graph; auto takes the native library where it gives the same
                slates (service.engine.native_backend); native requires it.

        Raises:
            BundleError: names the file and both values, or the provider or library that is missing.
        """
        manifest = Manifest.read(directory)
        manifest.verify_files(directory, digest_of)
        featuriser = load_featuriser(directory, manifest)
        graphs = open_graphs(directory, manifest, threads, provider, spinning)
        session = cls(manifest, featuriser, *graphs)
        session.digest = (directory / SEAL).read_text(encoding="ascii").strip()
        session.tracer = StepTracer(directory, manifest)
        session._replay_files(directory)
        if backend != "onnx":
            session._take_native(directory, backend)
        return session

    def _replay_files(self, directory: Path) -> None:
        for name in (GOLDEN, INTENT_GOLDEN) if self.manifest.supports_intent else (GOLDEN,):
            content = (directory / name).read_text(encoding="utf-8")
            self.replay_golden(json.loads(content), name)

    def _take_native(self, directory: Path, backend: BackendName) -> None:
        """Run on the native library if it gives the graph's slates, and let go of the graphs.

        Raises BundleError if it does not, but the backend must be native.
        """
        if self.provider == "CUDAExecutionProvider":
            self.backend = ON_GPU
        else:
            try:
                native = NativeBackend(directory, self.manifest, self.featuriser)
                comparison = check(native, self._run_graph, self.manifest, self.featuriser)
                self._native, columns = native, native.take_columns()
                self._replay_files(directory)
            except Exception as error:  # of a foreign library, a lack of memory ...
                self._native, self.backend = None, Backend.onnx(error)
                self.featuriser.compared.native = None
            else:
                self.backend = native_backend(comparison, columns)
                del self._generator, self._evaluator, self._run, self._evaluate, self._run_intent
        if backend == "native" and self._native is None:
            raise BundleError(
                f"{directory}: cannot run on the native library ({self.backend.detail}); set "
                "RERANK_BACKEND=auto"
            )

    @property
    def provider(self) -> str:
        """Name of the execution provider that runs the graph."""
        return self._provider

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
        return self._row(
            features_of(self.featuriser, candidates), slate_size, budget, entropy_threshold
        )

    def whole_row(
        self,
        candidates: CandidateList,
        slate_size: int | None = None,
        budget: int | None = None,
        entropy_threshold: float | None = None,
    ) -> Row:
        """Return the same row with numbers [N, F] and tokens [N, T] of items and request.

        The graph of a bundle of item rows does not read it; other models do.
        """
        numbers, tokens = self.featuriser.transform(candidates)
        features = {"numbers": numbers, "tokens": tokens}
        return self._row(features, slate_size, budget, entropy_threshold)

    def placeholder_row(
        self,
        candidates: CandidateList,
        slate_size: int | None = None,
        budget: int | None = None,
        entropy_threshold: float | None = None,
    ) -> Row:
        """Return the same row without features, for a list that will not be run."""
        count = len(candidates.ids)
        features = {
            "numbers": np.zeros((count, 0), np.float32),
            "tokens": np.zeros((count, 0), np.int64),
            "unknown": self.featuriser.count_unknown(candidates),
        }
        return self._row(features, slate_size, budget, entropy_threshold)

    def _row(
        self,
        features: Mapping[str, Any],
        slate_size: int | None,
        budget: int | None,
        entropy_threshold: float | None,
    ) -> Row:
        manifest, count = self.manifest, len(features["numbers"])
        longest = min(manifest.slate_length, count)
        size = longest if slate_size is None else slate_size
        return Row(
            slate_size=size,
            budget=manifest.budget if budget is None else budget,
            entropy_threshold=(
                manifest.entropy_threshold if entropy_threshold is None else entropy_threshold
            ),
            reason_temperature=manifest.reason_temperature,
            recommend_temperature=manifest.recommend_temperature,
            constraints=SlateConstraints.none(count, size),
            **features,
        )

    def blank_row(self, candidates: int) -> Row:
        """Return a row of zeros that takes every step, for timing."""
        manifest = self.manifest
        features: dict[str, Any] = {
            "numbers": np.zeros((candidates, manifest.numbers), np.float32),
            "tokens": np.zeros((candidates, manifest.tokens or 0), np.int64),
        }
        if manifest.width is not None:
            features["rows"] = np.zeros((candidates, manifest.width), np.float32)
        return self._row(features, None, None, EVERY_STEP)

    def groups(self, name: str, row: Row) -> list[str | None]:
        """Return each candidate's value of a category or identifier, None if it has no known value.

        Raises KeyError for any other feature.
        """
        return groups_of(self.featuriser, name, self._tokens(row))

    def values(self, name: str, row: Row) -> list[tuple[str, ...]]:
        """Return each candidate's distinct known values of a category, categories or identifier.

        Raises KeyError for any other feature, and for one of the user or the context.
        """
        return candidate_values(self.featuriser, name, self._tokens(row))

    def _tokens(self, row: Row) -> Integers:
        """Return tokens int64 [N, T] of items and request, in the order of the schema."""
        if isinstance(self.featuriser, RowFeaturiser) and row.encoded is not None:
            return self.featuriser.tokens(row.encoded)
        return row.tokens

    def run(self, rows: Sequence[Row]) -> list[Slate]:
        """Decode one slate per row in a single run.

        A sampled row gets its slate of highest utility. Raises ModelError if the backend fails,
        an output is not a valid slate, or a row has an intent that the bundle does not support.
        """
        if not self.supports_intent and any(row.intent is not None for row in rows):
            raise ModelError(f"a row has an intent, but the bundle has no {INTENT_GENERATOR}")
        began = time.thread_time()
        try:
            outputs, utility = (self._native.run if self._native else self._run_graph)(rows)
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            failed = "the native library" if self._native else "the graph"
            raise ModelError(f"{failed} failed: {error}") from error
        finally:
            self.graph_cpu_s += time.thread_time() - began
        return decode(rows, outputs[:5], outputs.logits, utility)

    def _run_graph(self, rows: Sequence[Row]) -> Decoded:
        """Decode rows by the graph."""
        feeds, run = collate(rows, self.manifest.slate_length), self._run
        intents = [row.intent for row in rows]
        if self._run_intent is not None and any(intent is not None for intent in intents):
            feeds, run = feeds | intent_inputs(intents, feeds), self._run_intent
        explained = run is not self._run or any(row.explain for row in rows)
        outputs = run([*SLATE_OUTPUTS, "logits"] if explained else SLATE_OUTPUTS, feeds)
        logits, utility = outputs.pop() if explained else None, None
        if any(row.sampling for row in rows):
            (utility,) = self._evaluate(
                ["utility"], self._evaluator_feeds(rows, feeds) | {"slate": outputs[0]}
            )
        return NativeOutputs._make([*outputs, logits]), utility

    def _evaluator_feeds(
        self, rows: Sequence[Row], feeds: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs of the evaluator but its slates; lists without sampling are blank."""
        featuriser = self.featuriser
        if not isinstance(featuriser, RowFeaturiser):
            return {name: feeds[name] for name in ("numbers", "tokens", "list")}
        shape = (*feeds["numbers"].shape[:2], featuriser.halves[EVALUATOR_ROWS].width)
        item_rows = np.zeros(shape, np.float32)
        for index, row in enumerate(rows):
            if row.sampling and row.encoded is not None:
                of_list = featuriser.rows(row.encoded, EVALUATOR_ROWS)
                item_rows[index, : len(of_list)] = of_list
        return {"rows": item_rows, "numbers": feeds["numbers"], "list": feeds["list"]}

    def replay_golden(self, golden: Sequence[Mapping[str, Any]], file: str = GOLDEN) -> None:
        """Raise BundleError for the first golden request of a file whose slate or steps differ."""
        for number, entry in enumerate(golden):
            row = self.golden_row(entry["request"])
            try:
                slate = self.run([row])[0]
            except ModelError as error:
                raise BundleError(f"{file}[{number}]: {error}") from error
            ids = [entry["request"]["candidates"][i]["id"] for i in slate.indices.tolist()]
            for field, value in (("slate", ids), ("steps", slate.steps.tolist())):
                if value != entry[field]:
                    raise BundleError(
                        f"{file}[{number}].{field}: decoded {value}, expected {entry[field]}"
                    )

    def golden_row(self, request: Mapping[str, Any]) -> Row:
        """Return the row of a golden request, with its intent if it has `diversity` or boosts."""
        row = self.row(CandidateList.from_json(request))
        boosts = [candidate.get("boost", 0.0) for candidate in request["candidates"]]
        terms = [
            DiversityTerm(term["by"], term["weight"], term["decay"], term["law"])
            for term in request.get("diversity", ())
        ]
        if not (terms or any(boosts)):
            return row
        values = [self.values(term.name, row) for term in terms]
        intent = build_intent(terms, values, np.array(boosts, np.float32))
        return dataclasses.replace(row, intent=intent)

    def warm_up(self, batch_sizes: Sequence[int], list_size: int) -> list[Timing]:
        """Run each batch size, so that no request pays for allocations; return the fastest timings.

        Each batch size is run with every step of the bundle's budget, and on the CPU at budget 0
        too. On CUDA a run takes as long at every budget; there each bucket up to the largest batch
        is captured.
        """
        manifest = self.manifest
        row, budgets = self.blank_row(list_size), {0, manifest.budget}
        self.run([dataclasses.replace(row, sampling=SlateSampling(2, seed=0), explain=True)])
        if self.supports_intent:
            boosted = build_intent([], [], np.ones(list_size, np.float32))
            self.run([dataclasses.replace(row, intent=boosted)])
        if self.provider == "CUDAExecutionProvider":
            budgets = {manifest.budget}
            for lists, count in warm_up_sizes(max(batch_sizes), manifest.max_candidates):
                self.run([self.blank_row(count)] * lists)
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


def features_of(featuriser: Featuriser, candidates: CandidateList) -> dict[str, Any]:
    """Return the fields of a row that come from its candidate list. Raises FeatureError."""
    encoded = featuriser.encode(candidates)
    features = {
        "numbers": encoded.numbers,
        "tokens": encoded.tokens,
        "unknown": featuriser.unknown_in(encoded),
        "stored": encoded.stored,
    }
    if isinstance(featuriser, RowFeaturiser):
        features["numbers"] = encoded.numbers[:, : featuriser.request_width]
        features["rows"] = featuriser.rows(encoded, GENERATOR_ROWS)
        features["encoded"] = encoded
    return features
