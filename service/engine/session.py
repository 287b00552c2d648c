"""The onnxruntime sessions of one bundle: verify, replay golden requests, run, check slates."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.batching.budget import Timing
from service.engine.constraints import Rules
from service.engine.contract import (
    EVALUATOR,
    EVALUATOR_INPUTS,
    EVALUATOR_OUTPUTS,
    GENERATOR,
    GOLDEN,
    INPUTS,
    OUTPUTS,
    STATIC,
    BundleError,
    Floats,
    Integers,
    Manifest,
    Table,
)
from service.engine.cuda import CudaRunner, ahead, on_device
from service.engine.features.candidates import Request
from service.engine.features.featuriser import Featuriser

SLATE_OUTPUTS = [name for name in OUTPUTS if name != "logits"]
COLUMNS = ["indices", *SLATE_OUTPUTS[1:]]  # their fields of a Slate


class ModelError(RuntimeError):
    """The graph failed, or answered something that is not a slate."""


@dataclass(frozen=True)
class Sampling:
    """Sample `slates` slates, the same for the same seed, and keep the evaluator's favourite."""

    slates: int
    seed: int

    def noise(self, positions: int, size: int) -> Floats:
        """Gumbel noise [slates, K, N]; of this request alone, whatever is batched with it."""
        draw = np.random.Generator(np.random.Philox(self.seed))
        noise = draw.gumbel(size=(self.slates, positions, size))
        return noise.astype(np.float32)


@dataclass(frozen=True)
class Row:
    """One featurised request: numbers float32 [N, F], tokens int64 [N, T] and its knobs.

    Without sampling the slate is the greedy one.
    """

    numbers: Floats
    tokens: Integers
    slate_size: int
    budget: int
    entropy_threshold: float
    reason_temperature: float
    recommend_temperature: float
    rules: Rules
    sampling: Sampling | None = None
    explain: bool = False


@dataclass(frozen=True)
class Slate:
    """One decoded slate of k positions.

    indices int64 [k] into the candidate list; logprob, entropy_before, entropy_after float32 [k]
    (nats); steps int64 [k], the reasoning steps taken before each position; utility of a sampled
    slate, as the evaluator sees it; logits float32 [k, N] each choice was made by, of an explained
    one: what may not be chosen any more is far below the rest.
    """

    indices: Integers
    logprob: Floats
    entropy_before: Floats
    entropy_after: Floats
    steps: Integers
    utility: float | None = None
    logits: Floats | None = None


class Session:
    """A verified bundle, ready to run. On the CPU `run` is thread-safe and releases the GIL."""

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
        self.graph_cpu_s = 0.0  # of the threads that ran the graphs, so far
        self._run, self._evaluate = generator.run, evaluator.run
        if self.provider == "CUDAExecutionProvider":
            self._run = CudaRunner(generator, manifest.slate_length).run
            self._evaluate = lambda *given: on_device(lambda: evaluator.run(*given))

    @classmethod
    def load(
        cls, directory: Path, threads: int = 1, provider: str = "cpu", spinning: bool = False
    ) -> Session:
        """Verify every file and the graphs' signatures, then replay the golden requests.

        `threads` is onnxruntime's intra-op count, `spinning` whether they burn their core between
        runs; the graph is small, so one thread is usually fastest (python -m export tune).
        `provider` is cpu, which runs the gated form, or cuda, which runs the static one. Raises
        BundleError naming the file and both values, or the provider that did not come.
        """
        manifest = Manifest.read(directory)
        manifest.verify_files(directory)
        try:
            featuriser = Featuriser.load(directory)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{directory}: feature tables do not load ({error})") from error
        for name in ("numbers", "tokens"):
            width = getattr(featuriser, f"{name}_width")
            if width != getattr(manifest, name):
                raise BundleError(
                    f"{directory}: the featuriser makes {width} columns of {name}, "
                    f"the manifest says {getattr(manifest, name)}"
                )
        graphs = []
        for name, inputs, outputs in (
            (STATIC if provider == "cuda" else GENERATOR, INPUTS, OUTPUTS),
            (EVALUATOR, EVALUATOR_INPUTS, EVALUATOR_OUTPUTS),
        ):
            capture = name == STATIC  # the evaluator runs plainly, on slates of any number
            packed = name != GENERATOR
            path = directory / name
            graphs.append(open_graph(path, threads, provider, spinning, capture, packed))
            check_signature(directory / name, graphs[-1], inputs, outputs)
        session = cls(manifest, featuriser, *graphs)
        session.replay_golden(json.loads((directory / GOLDEN).read_text(encoding="utf-8")))
        return session

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph."""
        return str(self._generator.get_providers()[0])

    def row(
        self,
        request: Request,
        slate_size: int | None = None,
        budget: int | None = None,
        entropy_threshold: float | None = None,
    ) -> Row:
        """Featurise one request; what is not given is the bundle's default, without constraints.

        Raises FeatureError for inline features that break the schema.
        """
        return self.unread(
            request, slate_size, budget, entropy_threshold, self.featuriser.transform(request)
        )

    def unread(
        self,
        request: Request,
        slate_size: int | None = None,
        budget: int | None = None,
        entropy_threshold: float | None = None,
        features: tuple[Floats, Integers] | None = None,
    ) -> Row:
        """The same with these features, or without any: for a list that will not be run."""
        manifest = self.manifest
        if features is None:
            count = len(request.ids)
            features = np.zeros((count, 0), np.float32), np.zeros((count, 0), np.int64)
        numbers, tokens = features
        longest = min(manifest.slate_length, len(request.ids))
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
            rules=Rules.none(len(request.ids), size),
        )

    def run(self, rows: Sequence[Row]) -> list[Slate]:
        """Decode one slate per row in a single padded run; of sampled ones, the evaluator's best.

        Raises ModelError when the graph fails or any answer is not a valid slate.
        """
        feeds = collate(rows, self.manifest.slate_length)
        explained = any(row.explain for row in rows)
        began = time.thread_time()
        try:
            outputs = self._run([*SLATE_OUTPUTS, "logits"] if explained else SLATE_OUTPUTS, feeds)
            logits = outputs.pop() if explained else None
            utility = None
            if any(row.sampling for row in rows):
                given = {
                    "slate": outputs[0],
                    **{n: feeds[n] for n in ("numbers", "tokens", "list")},
                }
                (utility,) = self._evaluate(["utility"], given)
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            raise ModelError(f"the graph failed: {error}") from error
        finally:
            self.graph_cpu_s += time.thread_time() - began
        slates, start = [], 0
        for row in rows:
            best, value, count = start, None, row.sampling.slates if row.sampling else 1
            if row.sampling and utility is not None:
                best += int(utility[start : start + count].argmax())
                value = float(utility[best])
            columns = {
                name: output[best, : row.slate_size]
                for name, output in zip(COLUMNS, outputs, strict=True)
            }
            seen = None
            if row.explain and logits is not None:
                seen = logits[best, : row.slate_size, : len(row.numbers)]
            slate = Slate(**columns, utility=value, logits=seen)
            check_slate(slate, row)
            slates.append(slate)
            start += count
        return slates

    def replay_golden(self, golden: Sequence[Mapping[str, Any]]) -> None:
        """Raises BundleError for the first golden request whose slate or steps differ."""
        for number, entry in enumerate(golden):
            row = self.row(Request.from_json(entry["request"]))
            try:
                slate = self.run([row])[0]
            except ModelError as error:
                raise BundleError(f"{GOLDEN}[{number}]: {error}") from error
            ids = [entry["request"]["candidates"][i]["id"] for i in slate.indices.tolist()]
            for what, got in (("slate", ids), ("steps", slate.steps.tolist())):
                if got != entry[what]:
                    raise BundleError(f"{GOLDEN}[{number}].{what}: {got}, expected {entry[what]}")

    def warm_up(self, batch_sizes: Sequence[int], list_size: int) -> list[Timing]:
        """Run each batch size, so that no request pays for the first allocation; how long it took.

        Each at the bundle's budget with every step taken, and at budget 0 where that is another
        run: not on CUDA, where every bucket up to the largest batch is captured as well.
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
                Rules.none(count, size),
            )

        row, budgets = blank(list_size), {0, manifest.budget}
        self.run([dataclasses.replace(row, sampling=Sampling(2, seed=0), explain=True)])
        if self.provider == "CUDAExecutionProvider":
            budgets = {manifest.budget}
            for lists, count in ahead(max(batch_sizes), manifest.max_candidates):
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


def open_graph(
    path: Path,
    threads: int,
    provider: str,
    spinning: bool = False,
    capture: bool = False,
    packed: bool = True,
) -> ort.InferenceSession:
    """A session that runs where it was asked to. Raises BundleError.

    capture: by CUDA graphs. packed: weights are laid out anew for their products; not for a graph
    with branches, which onnxruntime then runs without planning their memory (docs/inference.md).
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning burns the core that the event loop needs between runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.disable_prepacking", str(int(not packed)))
    if provider == "cuda":
        ort.preload_dlls()  # CUDA and cuDNN may have come as wheels; else the system's are found
    wanted = CudaRunner.providers(capture) if provider == "cuda" else ["CPUExecutionProvider"]

    def opened() -> ort.InferenceSession:
        return ort.InferenceSession(
            str(path),
            options,
            providers=wanted,
            # On the CPU the fused operator is slower than the two it replaces (docs/inference.md).
            disabled_optimizers=["SkipLayerNormFusion"] if provider == "cpu" else None,
        )

    try:
        graph = on_device(opened) if provider == "cuda" else opened()
    except Exception as error:  # see Session.run
        raise BundleError(f"{path}: does not load ({error})") from error
    first = graph.get_providers()[0]
    if provider == "cuda" and first != "CUDAExecutionProvider":
        # onnxruntime falls back to the CPU in silence, even where it lists CUDA as available.
        raise BundleError(f"{path}: runs on {first}, asked for CUDAExecutionProvider")
    return graph


def check_signature(path: Path, graph: ort.InferenceSession, inputs: Table, outputs: Table) -> None:
    """Raises BundleError unless inputs and outputs are the contract's."""
    for what, found, expected in (
        ("inputs", graph.get_inputs(), inputs),
        ("outputs", graph.get_outputs(), outputs),
    ):
        names = [value.name for value in found]
        if names != list(expected):
            raise BundleError(f"{path}: {what} are {names}, the contract has {list(expected)}")


def collate(rows: Sequence[Row], positions: int) -> dict[str, np.ndarray[Any, Any]]:
    """Rows of different list sizes -> the graph's inputs, padded to the longest list.

    positions: K of the graph. A sampled row takes as many slates as it samples.
    """
    longest = max(len(row.numbers) for row in rows)
    count, first = len(rows), rows[0]
    slates = [row.sampling.slates if row.sampling else 1 for row in rows]
    total, sampled = sum(slates), any(row.sampling for row in rows)
    if count == 1:
        numbers, tokens = first.numbers[None], first.tokens[None]
    else:
        numbers = np.zeros((count, longest, first.numbers.shape[1]), np.float32)
        tokens = np.zeros((count, longest, first.tokens.shape[1]), np.int64)
    mask = np.zeros((count, longest), np.bool_)
    noise = np.zeros((total, positions, longest if sampled else 1), np.float32)
    pinned = np.full((count, positions), -1, np.int64)
    group = np.full((count, longest), -1, np.int64)  # padding: of no candidate's group
    quota = np.zeros((count, longest), np.float32)
    start = 0
    for index, row in enumerate(rows):
        size = len(row.numbers)
        if count > 1:
            numbers[index, :size], tokens[index, :size] = row.numbers, row.tokens
        mask[index, :size] = True
        pinned[index, : row.slate_size] = row.rules.pinned
        group[index, :size] = row.rules.group
        quota[index, :size] = row.rules.quota
        if row.sampling:
            stop = start + slates[index]
            noise[start:stop, :, :size] = row.sampling.noise(positions, size)
        start += slates[index]
    lists = np.arange(count)
    if total != count:
        lists = lists.repeat(slates)
        pinned, group, quota = pinned[lists], group[lists], quota[lists]

    def knob(name: str, dtype: Any) -> np.ndarray[Any, Any]:
        values = np.array([getattr(row, name) for row in rows], dtype)
        return values if total == count else values[lists]

    return {
        "numbers": numbers,
        "tokens": tokens,
        "mask": mask,
        "list": lists,
        "length": knob("slate_size", np.int64),
        "budget": knob("budget", np.int64),
        "entropy_threshold": knob("entropy_threshold", np.float32),
        "reason_temperature": knob("reason_temperature", np.float32),
        "recommend_temperature": knob("recommend_temperature", np.float32),
        "noise": noise,
        "pinned": pinned,
        "group": group,
        "quota": quota,
    }


def check_slate(slate: Slate, row: Row) -> None:
    """Raises ModelError unless the slate is what the row asks for, and its numbers are finite."""
    indices = slate.indices.tolist()
    if len(indices) != row.slate_size:
        raise ModelError(f"slate of {len(indices)} positions, asked for {row.slate_size}")
    if indices and not (min(indices) >= 0 and max(indices) < len(row.numbers)):
        raise ModelError(f"slate {indices} points outside a list of {len(row.numbers)}")
    if len(set(indices)) != len(indices):
        raise ModelError(f"slate {indices} repeats a candidate")
    broken = row.rules.broken_by(indices)
    if broken is not None:
        raise ModelError(f"slate {indices}: {broken}")
    if slate.utility is not None and not np.isfinite(slate.utility):
        raise ModelError(f"the slate's utility is {slate.utility}")
    figures = (slate.logprob, slate.entropy_before, slate.entropy_after)
    if not all(math.isfinite(value) for column in figures for value in column.tolist()):
        raise ModelError("log-probabilities or entropies are not finite")
    steps = slate.steps.tolist()
    if steps and not (min(steps) >= 0 and max(steps) <= row.budget):
        raise ModelError(f"steps {steps} outside the budget of {row.budget}")
